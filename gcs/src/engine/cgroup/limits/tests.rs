use serde_json::{json, Value};

use super::plan::weight;
use super::*;

/// What the files say before the update.
const FILES: [(&str, &str); 10] = [
    ("memory.swap.max", "max\n"),
    ("memory.memsw.limit_in_bytes", "2000\n"),
    ("memory.max", "1000\n"),
    ("memory.current", "500\n"),
    ("cpu.max", "max 100000\n"),
    ("hugetlb.2MB.max", "max\n"),
    ("hugetlb.2MB.rsvd.max", "max\n"),
    ("hugetlb.2MB.limit_in_bytes", "0\n"),
    ("blkio.weight", "500\n"),
    ("io.weight", "default 100\n"),
];

fn planned(v2: bool, resources: &Value) -> Result<Vec<String>, String> {
    let resources = parse(resources).unwrap();
    let now = |_: &str, file: &str| {
        let mut files = FILES.iter().filter(|(name, _)| *name == file);
        files.next().map(|(_, text)| (*text).to_owned())
    };
    let writes = plan(v2, &resources, &now)?;
    Ok(writes
        .into_iter()
        .map(|write| format!("{} < {}", write.file, write.value))
        .collect())
}

#[test]
fn resources_become_writes() {
    let nothing: &[&str] = &[];
    let cases: &[(Value, &[&str], &[&str])] = &[
        (json!({}), nothing, nothing),
        (
            json!({"devices": [{"allow": false, "access": "rwm"}]}),
            nothing,
            nothing,
        ),
        // What Go writes for members that are not set.
        (
            json!({"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0, "cpus": ""}, "pids": {"limit": 0}}),
            nothing,
            nothing,
        ),
        (
            json!({"memory": {"limit": 512, "reservation": 256}}),
            &[
                "memory.limit_in_bytes < 512",
                "memory.soft_limit_in_bytes < 256",
            ],
            &["memory.max < 512", "memory.low < 256"],
        ),
        // Down: the limit first; up: the sum first.
        (
            json!({"memory": {"limit": 512, "swap": 700}}),
            &[
                "memory.limit_in_bytes < 512",
                "memory.memsw.limit_in_bytes < 700",
            ],
            &["memory.swap.max < 188", "memory.max < 512"],
        ),
        (
            json!({"memory": {"limit": 3000, "swap": 4000}}),
            &[
                "memory.memsw.limit_in_bytes < 4000",
                "memory.limit_in_bytes < 3000",
            ],
            &["memory.swap.max < 1000", "memory.max < 3000"],
        ),
        (
            json!({"memory": {"limit": -1, "swap": -1}}),
            &[
                "memory.memsw.limit_in_bytes < -1",
                "memory.limit_in_bytes < -1",
            ],
            &["memory.swap.max < max", "memory.max < max"],
        ),
        // No limit of memory is none of both.
        (
            json!({"memory": {"limit": -1}}),
            &[
                "memory.memsw.limit_in_bytes < -1",
                "memory.limit_in_bytes < -1",
            ],
            &["memory.swap.max < max", "memory.max < max"],
        ),
        (json!({"network": {"classID": 0}}), nothing, nothing),
        (
            json!({"rdma": {"b": {"hcaObjects": 2}, "a": {"hcaHandles": 1, "hcaObjects": 3}}}),
            &[
                "rdma.max < a hca_handle=1 hca_object=3",
                "rdma.max < b hca_object=2",
            ],
            &[
                "rdma.max < a hca_handle=1 hca_object=3",
                "rdma.max < b hca_object=2",
            ],
        ),
        (
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}),
            &["blkio.weight_device < 8:0 10"],
            &["io.weight < 8:0 1"],
        ),
        // Against the limit of now.
        (
            json!({"memory": {"swap": 1500}}),
            &["memory.memsw.limit_in_bytes < 1500"],
            &["memory.swap.max < 500"],
        ),
        (
            json!({"cpu": {"shares": 1024, "quota": 50000, "period": 200_000, "cpus": "0-1", "mems": "0"}}),
            &[
                "cpu.shares < 1024",
                "cpu.cfs_period_us < 200000",
                "cpu.cfs_quota_us < 50000",
                "cpuset.cpus < 0-1",
                "cpuset.mems < 0",
            ],
            &[
                "cpu.weight < 100",
                "cpu.max < 50000 200000",
                "cpuset.cpus < 0-1",
                "cpuset.mems < 0",
            ],
        ),
        (
            json!({"cpu": {"quota": -1}}),
            &["cpu.cfs_quota_us < -1"],
            &["cpu.max < max 100000"],
        ),
        (
            json!({"cpu": {"period": 50000, "burst": 7, "idle": 1}}),
            &[
                "cpu.cfs_period_us < 50000",
                "cpu.cfs_burst_us < 7",
                "cpu.idle < 1",
            ],
            &["cpu.max < max 50000", "cpu.max.burst < 7", "cpu.idle < 1"],
        ),
        (
            json!({"pids": {"limit": 77}}),
            &["pids.max < 77"],
            &["pids.max < 77"],
        ),
        (
            json!({"pids": {"limit": -1}}),
            &["pids.max < max"],
            &["pids.max < max"],
        ),
        (
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}),
            &["hugetlb.2MB.limit_in_bytes < 4096"],
            &["hugetlb.2MB.max < 4096", "hugetlb.2MB.rsvd.max < 4096"],
        ),
        (
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}),
            &["hugetlb.2MB.limit_in_bytes < 0"],
            &["hugetlb.2MB.max < 0", "hugetlb.2MB.rsvd.max < 0"],
        ),
        (
            json!({"blockIO": {"weight": 1000,
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 4096}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}}),
            &[
                "blkio.weight < 1000",
                "blkio.throttle.read_bps_device < 8:0 4096",
                "blkio.throttle.write_iops_device < 8:16 0",
            ],
            &[
                "io.weight < 10000",
                "io.max < 8:0 rbps=4096",
                "io.max < 8:16 wiops=max",
            ],
        ),
    ];
    for (resources, v1, v2) in cases {
        assert_eq!(planned(false, resources).unwrap(), *v1, "v1 {resources}");
        assert_eq!(planned(true, resources).unwrap(), *v2, "v2 {resources}");
    }
    assert_eq!(
        planned(true, &json!({"unified": {"memory.high": "9"}})).unwrap(),
        ["memory.high < 9"]
    );
    assert_eq!(
        planned(
            false,
            &json!({"memory": {"swappiness": 10, "disableOOMKiller": true}})
        )
        .unwrap(),
        ["memory.swappiness < 10", "memory.oom_control < 1"]
    );
    let network = json!({"network": {"classID": 7, "priorities": [{"name": "eth0", "priority": 3}]},
        "memory": {"kernelTCP": 9}});
    assert_eq!(
        planned(false, &network).unwrap(),
        [
            "memory.kmem.tcp.limit_in_bytes < 9",
            "net_cls.classid < 7",
            "net_prio.ifpriomap < eth0 3"
        ]
    );
}

#[test]
fn what_cannot_be_applied_is_named() {
    for (versions, resources, words) in [
        (
            &[false, true][..],
            json!({"memory": {"limit": -2}}),
            "memory.limit: -2",
        ),
        (
            &[false, true],
            json!({"memory": {"limit": 200, "swap": 100}}),
            "memory.swap: 100",
        ),
        (
            &[false, true],
            json!({"memory": {"kernel": 100}}),
            "memory.kernel",
        ),
        (
            &[false, true],
            json!({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}),
            "page size",
        ),
        (&[true], json!({"network": {"classID": 1}}), "network"),
        (&[true], json!({"memory": {"kernelTCP": 1}}), "kernelTCP"),
        (&[false, true], json!({"rdma": {"mlx": {}}}), "rdma.mlx: "),
        (
            &[false, true],
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}),
            "weightDevice",
        ),
        (
            &[false, true],
            json!({"blockIO": {"leafWeight": 10}}),
            "leafWeight",
        ),
        (
            &[false],
            json!({"unified": {"memory.high": "9"}}),
            "needs cgroup v2",
        ),
        (
            &[true],
            json!({"unified": {"cgroup.procs": "0"}}),
            "cgroup.procs",
        ),
        (&[true], json!({"unified": {"../x.y": "0"}}), "../x.y"),
        (&[true], json!({"memory": {"swappiness": 1}}), "swappiness"),
        (
            &[true],
            json!({"memory": {"limit": -1, "swap": 100}}),
            "needs memory.limit",
        ),
        (
            &[true],
            json!({"memory": {"limit": 400, "checkBeforeUpdate": true}}),
            "uses 500",
        ),
        (&[true], json!({"cpu": {"realtimePeriod": 1}}), "real-time"),
    ] {
        for v2 in versions {
            let why = planned(*v2, &resources).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}

#[test]
fn shares_and_weights_agree_at_both_ends_and_at_the_defaults() {
    for (shares, expected) in [(2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
        assert_eq!(weight(shares), expected);
    }
    assert!((2..262_144)
        .step_by(97)
        .all(|n| weight(n) <= weight(n + 97)));
}

#[test]
fn a_refused_value_sets_the_earlier_ones_back() {
    let mount = tempfile::tempdir().unwrap();
    let dir = mount.path().join("containers/c");
    fs::create_dir_all(&dir).unwrap();
    for (path, text) in [
        ("cgroup.controllers", ""),
        ("containers/c/memory.max", "max\n"),
        ("containers/c/pids.max", "max\n"),
    ] {
        fs::write(mount.path().join(path), text).unwrap();
    }
    let group = Group::open(mount.path(), std::path::Path::new("containers/c"));
    let resources = json!({"memory": {"limit": 4096}, "pids": {"limit": 5}, "hugepageLimits": [{"pageSize": "1GB", "limit": 1}]});
    let failure = apply(&group, &resources).unwrap_err();
    assert!(failure.message.contains("hugetlb.1GB.max"), "{failure}");
    let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(
        (text("memory.max"), text("pids.max")),
        ("max\n".into(), "max\n".into())
    );

    let gone = Group::open(mount.path(), std::path::Path::new("containers/gone"));
    assert!(apply(&gone, &json!({})).is_err());
}
