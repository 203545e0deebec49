//! cgroup v2: one directory, told in the words of v1.
//!
//! What v2 does not count stays out: the times per processor, the peak of memory and swap
//! together, peaks of huge pages, queue lengths and times of block devices. Its values are
//! hierarchical always, so that `x` and `total_x` are the same.

use super::{number, page_sizes, rdma, table, Devices, Read, UNLIMITED};
use crate::prot::stats::{
    Blkio, Cpu, CpuThrottling, CpuUsage, Hugetlb, Memory, MemoryEntry, MemoryOomControl, Metrics,
    Rdma,
};

/// `limits_above` are the texts of `memory.max` of the groups above, `names` the files there are.
pub(super) fn metrics(
    read: Read<'_>,
    limits_above: &[String],
    names: &[String],
    devices: &Devices,
) -> Metrics {
    let has = |file: &str| names.iter().any(|name| name == file);
    Metrics {
        hugetlb: hugetlb(read, names),
        pids: has("pids.current").then(|| super::v1::pids(read)),
        cpu: Some(cpu(read)),
        memory: has("memory.current").then(|| memory(read, limits_above)),
        memory_oom_control: has("memory.events").then(|| oom_control(read)),
        blkio: has("io.stat").then(|| blkio(read, devices)),
        rdma: has("rdma.current").then(|| Rdma {
            current: rdma(read("rdma.current")),
            limit: rdma(read("rdma.max")),
        }),
        ..Metrics::default()
    }
}

pub(super) fn hugetlb(read: Read<'_>, names: &[String]) -> Vec<Hugetlb> {
    let entry = |size: &str| {
        let events = table(read(&format!("hugetlb.{size}.events")));
        Hugetlb {
            usage: number(read(&format!("hugetlb.{size}.current")), 0),
            max: 0,
            failcnt: events.get("max").copied().unwrap_or_default(),
            pagesize: size.to_owned(),
        }
    };
    page_sizes(names, "current").map(entry).collect()
}

/// Microseconds become nanoseconds.
pub(super) fn cpu(read: Read<'_>) -> Cpu {
    let stat = table(read("cpu.stat"));
    let of = |key: &str| stat.get(key).copied().unwrap_or_default();
    let nanoseconds = |key: &str| of(key).saturating_mul(1000);
    Cpu {
        usage: CpuUsage {
            total: nanoseconds("usage_usec"),
            kernel: nanoseconds("system_usec"),
            user: nanoseconds("user_usec"),
            per_cpu: Vec::new(),
        },
        throttling: CpuThrottling {
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled_time: nanoseconds("throttled_usec"),
        },
    }
}

pub(super) fn memory(read: Read<'_>, limits_above: &[String]) -> Memory {
    let stat = table(read("memory.stat"));
    let of = |key: &str| stat.get(key).copied().unwrap_or_default();
    let limit = |text: Option<String>| match text {
        Some(text) => number(Some(text), UNLIMITED),
        None => UNLIMITED,
    };
    let usage = MemoryEntry {
        limit: limit(read("memory.max")),
        usage: number(read("memory.current"), 0),
        max: number(read("memory.peak"), 0),
        failcnt: event(read, "memory.events", "max"),
    };
    // v1 counts memory and swap together.
    let both = |memory: u64, swap: u64| memory.saturating_add(swap).min(UNLIMITED);
    let swap_limit = limit(read("memory.swap.max"));
    let hierarchical = limits_above
        .iter()
        .map(|text| limit(Some(text.clone())))
        .fold(usage.limit, u64::min);
    let unlimited = |usage| {
        Some(MemoryEntry {
            limit: UNLIMITED,
            usage,
            ..MemoryEntry::default()
        })
    };
    Memory {
        cache: of("file"),
        rss: of("anon"),
        rss_huge: of("anon_thp"),
        mapped_file: of("file_mapped"),
        dirty: of("file_dirty"),
        writeback: of("file_writeback"),
        pg_pg_in: of("pgpgin"),
        pg_pg_out: of("pgpgout"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: hierarchical,
        hierarchical_swap_limit: both(hierarchical, swap_limit),
        total_cache: of("file"),
        total_rss: of("anon"),
        total_rss_huge: of("anon_thp"),
        total_mapped_file: of("file_mapped"),
        total_dirty: of("file_dirty"),
        total_writeback: of("file_writeback"),
        total_pg_pg_in: of("pgpgin"),
        total_pg_pg_out: of("pgpgout"),
        total_pg_fault: of("pgfault"),
        total_pg_maj_fault: of("pgmajfault"),
        total_inactive_anon: of("inactive_anon"),
        total_active_anon: of("active_anon"),
        total_inactive_file: of("inactive_file"),
        total_active_file: of("active_file"),
        total_unevictable: of("unevictable"),
        usage: Some(usage),
        swap: Some(MemoryEntry {
            limit: both(usage.limit, swap_limit),
            usage: both(usage.usage, number(read("memory.swap.current"), 0)),
            max: 0,
            failcnt: event(read, "memory.swap.events", "max"),
        }),
        kernel: unlimited(of("kernel")),
        kernel_tcp: unlimited(of("sock")),
    }
}

pub(super) fn oom_control(read: Read<'_>) -> MemoryOomControl {
    MemoryOomControl {
        oom_kill: event(read, "memory.events", "oom_kill"),
        ..MemoryOomControl::default()
    }
}

fn event(read: Read<'_>, file: &str, key: &str) -> u64 {
    table(read(file)).get(key).copied().unwrap_or_default()
}

/// Lines of `major:minor rbytes=N wbytes=N rios=N wios=N dbytes=N dios=N`.
pub(super) fn blkio(read: Read<'_>, devices: &Devices) -> Blkio {
    let text = read("io.stat").unwrap_or_default();
    let mut blkio = Blkio::default();
    for line in text.lines() {
        let Some((number, rest)) = line.split_once(' ') else {
            continue;
        };
        let of = |key: &str| {
            let words = rest
                .split_whitespace()
                .filter_map(|word| word.split_once('='));
            words
                .filter(|(name, _)| *name == key)
                .find_map(|(_, value)| value.parse::<u64>().ok())
                .unwrap_or_default()
        };
        for (list, [r, w, d]) in [
            (
                &mut blkio.io_service_bytes_recursive,
                ["rbytes", "wbytes", "dbytes"],
            ),
            (&mut blkio.io_serviced_recursive, ["rios", "wios", "dios"]),
        ] {
            let (read, write, discard) = (of(r), of(w), of(d));
            let total = read.saturating_add(write).saturating_add(discard);
            let values = [
                ("Read", read),
                ("Write", write),
                ("Discard", discard),
                ("Total", total),
            ];
            list.extend(
                values
                    .into_iter()
                    .filter_map(|(op, value)| devices.entry(number, op, value)),
            );
        }
    }
    blkio
}
