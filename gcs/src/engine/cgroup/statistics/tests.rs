use std::collections::HashMap;

use serde_json::json;

use super::*;
use crate::prot::stats::Hugetlb;

/// A directory as a table of texts.
fn files(list: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let map: HashMap<String, String> = list
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    move |name| map.get(name).cloned()
}

fn nothing(_: &str) -> Option<String> {
    None
}

const PARTITIONS: &str = "major minor  #blocks  name\n\n   8        0    1048576 sda\n";

#[test]
fn v1_cpu_is_in_nanoseconds() {
    let accounting = files(&[
        ("cpuacct.usage", "31415926\n"),
        ("cpuacct.usage_percpu", "31000000 415926 \n"),
        ("cpuacct.stat", "user 2\nsystem 1\n"),
    ]);
    let bandwidth = files(&[(
        "cpu.stat",
        "nr_periods 5\nnr_throttled 2\nthrottled_time 77\n",
    )]);
    assert_eq!(
        serde_json::to_value(v1::cpu(&accounting, &bandwidth)).unwrap(),
        json!({
            "usage": {"total": 31_415_926, "user": 20_000_000, "kernel": 10_000_000, "per_cpu": [31_000_000, 415_926]},
            "throttling": {"periods": 5, "throttled_periods": 2, "throttled_time": 77},
        })
    );
    // Always there, whatever is missing.
    assert_eq!(
        serde_json::to_value(v1::cpu(&nothing, &nothing)).unwrap(),
        json!({"usage": {}, "throttling": {}})
    );
}

#[test]
fn v2_cpu_is_in_nanoseconds() {
    let read = files(&[(
        "cpu.stat",
        "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 3\nthrottled_usec 9\n",
    )]);
    assert_eq!(
        serde_json::to_value(v2::cpu(&read)).unwrap(),
        json!({
            "usage": {"total": 30_000, "user": 20_000, "kernel": 10_000},
            "throttling": {"periods": 4, "throttled_periods": 3, "throttled_time": 9_000},
        })
    );
}

#[test]
fn v1_memory_goes_on_after_a_missing_file() {
    // No swap accounting: kernel memory is there all the same.
    let read = files(&[
        (
            "memory.stat",
            "cache 1\nrss 2\npgpgin 3\npgpgout 4\npgfault 5\npgmajfault 6\n\
             hierarchical_memory_limit 7\nhierarchical_memsw_limit 8\ntotal_cache 9\ntotal_pgpgin 10\nnew_in_kernel 11\n",
        ),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory.usage_in_bytes", "100\n"),
        ("memory.max_usage_in_bytes", "200\n"),
        ("memory.failcnt", "0\n"),
        ("memory.kmem.usage_in_bytes", "50\n"),
        ("memory.kmem.tcp.failcnt", "1\n"),
    ]);
    assert_eq!(
        serde_json::to_value(v1::memory(&read)).unwrap(),
        json!({
            "cache": 1, "rss": 2, "pg_pg_in": 3, "pg_pg_out": 4, "pg_fault": 5, "pg_maj_fault": 6,
            "hierarchical_memory_limit": 7, "hierarchical_swap_limit": 8, "total_cache": 9, "total_pg_pg_in": 10,
            "usage": {"limit": UNLIMITED, "usage": 100, "max": 200},
            "swap": {},
            "kernel": {"usage": 50},
            "kernel_tcp": {"failcnt": 1},
        })
    );
}

#[test]
fn v2_memory_is_told_in_the_words_of_v1() {
    let read = files(&[
        (
            "memory.stat",
            "anon 1\nfile 2\nkernel 3\nsock 4\nfile_mapped 5\nfile_dirty 6\nfile_writeback 7\nanon_thp 8\n\
             inactive_anon 9\nactive_anon 10\ninactive_file 11\nactive_file 12\nunevictable 13\npgfault 14\npgmajfault 15\n",
        ),
        ("memory.max", "4096\n"),
        ("memory.current", "100\n"),
        ("memory.peak", "200\n"),
        ("memory.swap.max", "1000\n"),
        ("memory.swap.current", "10\n"),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n"),
        ("memory.swap.events", "high 0\nmax 4\nfail 5\n"),
    ]);
    let above = ["max\n".to_owned(), "3000\n".to_owned()];
    let got = serde_json::to_value(v2::memory(&read, &above)).unwrap();
    let want = json!({
        "cache": 2, "rss": 1, "rss_huge": 8, "mapped_file": 5, "dirty": 6, "writeback": 7,
        "pg_fault": 14, "pg_maj_fault": 15, "inactive_anon": 9, "active_anon": 10, "inactive_file": 11,
        "active_file": 12, "unevictable": 13,
        "hierarchical_memory_limit": 3000, "hierarchical_swap_limit": 4000,
        "total_cache": 2, "total_rss": 1, "total_rss_huge": 8, "total_mapped_file": 5, "total_dirty": 6,
        "total_writeback": 7, "total_pg_fault": 14, "total_pg_maj_fault": 15, "total_inactive_anon": 9,
        "total_active_anon": 10, "total_inactive_file": 11, "total_active_file": 12, "total_unevictable": 13,
        "usage": {"limit": 4096, "usage": 100, "max": 200, "failcnt": 3},
        "swap": {"limit": 5096, "usage": 110, "failcnt": 4},
        "kernel": {"limit": UNLIMITED, "usage": 3},
        "kernel_tcp": {"limit": UNLIMITED, "usage": 4},
    });
    assert_eq!(got, want);
    assert_eq!(
        serde_json::to_value(v2::oom_control(&read)).unwrap(),
        json!({"oom_kill": 1})
    );
    // No limit anywhere is the number of v1, also for the sum of two.
    let free = v2::memory(
        &files(&[("memory.max", "max\n"), ("memory.swap.max", "max\n")]),
        &[],
    );
    assert_eq!(free.hierarchical_swap_limit, UNLIMITED);
    assert_eq!(free.swap.unwrap().limit, UNLIMITED);
}

#[test]
fn limits_and_counts_of_small_controllers() {
    let read = files(&[
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        (
            "memory.oom_control",
            "oom_kill_disable 1\nunder_oom 0\noom_kill 2\n",
        ),
        ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
        ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
        ("hugetlb.2MB.failcnt", "1\n"),
        ("hugetlb.1GB.current", "5\n"),
        ("hugetlb.1GB.events", "max 6\n"),
    ]);
    let pids = v1::pids(&read);
    assert_eq!((pids.current, pids.limit), (3, 0));
    let oom = v1::oom_control(&read);
    assert_eq!(
        (oom.oom_kill_disable, oom.under_oom, oom.oom_kill),
        (1, 0, 2)
    );
    let names = [
        "hugetlb.1GB.current",
        "hugetlb.2MB.rsvd.usage_in_bytes",
        "hugetlb.2MB.usage_in_bytes",
        "pids.max",
    ]
    .map(str::to_owned);
    let of = |usage, max, failcnt, pagesize: &str| Hugetlb {
        usage,
        max,
        failcnt,
        pagesize: pagesize.into(),
    };
    assert_eq!(
        v1::hugetlb(&read, &names),
        [of(2_097_152, 4_194_304, 1, "2MB")]
    );
    assert_eq!(v2::hugetlb(&read, &names), [of(5, 0, 6, "1GB")]);
}

#[test]
fn v1_block_devices_come_from_the_scheduler_or_the_throttling() {
    let devices = Devices::new(PARTITIONS);
    let mut list = vec![
        (
            "blkio.throttle.io_serviced",
            "8:0 Read 4\n8:0 Total 4\n9:1 Write 5\nTotal 9\n",
        ),
        (
            "blkio.throttle.io_service_bytes",
            "8:0 Read 4096\nTotal 4096\n",
        ),
        ("blkio.io_serviced_recursive", ""),
    ];
    let throttled = json!({
        "io_serviced_recursive": [
            {"op": "Read", "device": "/dev/sda", "major": 8, "value": 4},
            {"op": "Total", "device": "/dev/sda", "major": 8, "value": 4},
            {"op": "Write", "major": 9, "minor": 1, "value": 5},
        ],
        "io_service_bytes_recursive": [{"op": "Read", "device": "/dev/sda", "major": 8, "value": 4096}],
    });
    let got =
        |list: &[(&str, &str)]| serde_json::to_value(v1::blkio(&files(list), &devices)).unwrap();
    assert_eq!(got(&list), throttled);
    assert_eq!(got(&list[..2]), throttled);
    list.push(("blkio.time_recursive", "8:0 17\n"));
    assert_eq!(
        got(&list),
        json!({"io_time_recursive": [{"device": "/dev/sda", "major": 8, "value": 17}]})
    );
}

#[test]
fn v2_block_devices_have_reads_writes_and_discards() {
    let read = files(&[(
        "io.stat",
        "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0\n",
    )]);
    let got = v2::blkio(&read, &Devices::new(PARTITIONS));
    let values = |list: &[BlkioEntry]| -> Vec<(String, u64)> {
        list.iter()
            .map(|entry| (entry.op.clone(), entry.value))
            .collect()
    };
    let named = |[r, w, d, t]: [u64; 4]| {
        [("Read", r), ("Write", w), ("Discard", d), ("Total", t)].map(|(op, v)| (op.to_owned(), v))
    };
    assert_eq!(values(&got.io_service_bytes_recursive), named([1, 2, 5, 8]));
    assert_eq!(values(&got.io_serviced_recursive), named([3, 4, 6, 13]));
    assert_eq!(got.io_serviced_recursive[0].device, "/dev/sda");
}

#[test]
fn rdma_limits_are_numbers() {
    let got = rdma(Some(
        "mlx4_0 hca_handle=2 hca_object=max\nocrdma1 hca_handle=0 hca_object=1\n".into(),
    ));
    assert_eq!(
        serde_json::to_value(got).unwrap(),
        json!([{"device": "mlx4_0", "hca_handles": 2, "hca_objects": u32::MAX}, {"device": "ocrdma1", "hca_objects": 1}])
    );
}

#[test]
fn a_container_without_any_group_has_no_statistics() {
    let mount = tempfile::tempdir().unwrap();
    for v2 in [false, true] {
        if v2 {
            fs::write(mount.path().join("cgroup.controllers"), "").unwrap();
        }
        let group = Group::open(mount.path(), Path::new("containers/gone"));
        let failure = collect(&group).unwrap_err();
        assert_eq!(failure.code, crate::prot::HResult::FAIL);
    }
}

#[test]
fn a_v1_tree_with_one_controller_has_its_members_and_the_cpu() {
    let mount = tempfile::tempdir().unwrap();
    let dir = mount.path().join("pids/containers/c");
    fs::create_dir_all(&dir).unwrap();
    for (name, text) in [
        ("cgroup.procs", ""),
        ("pids.current", "2\n"),
        ("pids.max", "9\n"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let group = Group::open(mount.path(), Path::new("containers/c"));
    assert_eq!(
        serde_json::to_value(collect(&group).unwrap()).unwrap(),
        json!({"pids": {"current": 2, "limit": 9}, "cpu": {"usage": {}, "throttling": {}}})
    );
}
