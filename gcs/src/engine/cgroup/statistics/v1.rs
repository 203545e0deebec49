//! cgroup v1: one directory per controller.

use std::collections::HashMap;

use super::{names, number, page_sizes, rdma, table, text, Devices, Read};
use crate::engine::cgroup::Group;
use crate::prot::stats::{
    Blkio, BlkioEntry, Cpu, CpuThrottling, CpuUsage, Hugetlb, Memory, MemoryEntry,
    MemoryOomControl, Metrics, Pids, Rdma,
};

/// Nanoseconds of a tick of `cpuacct.stat` (USER_HZ is 100 everywhere).
const TICK: u64 = 10_000_000;

pub(super) fn metrics(group: &Group, devices: &Devices) -> Metrics {
    let files = |controller| {
        let dir = group.controller(controller);
        dir.map(|dir| move |name: &str| text(dir, name))
    };
    let either = |controller| {
        let read = files(controller);
        move |name: &str| read.as_ref().and_then(|read| read(name))
    };
    let hugetlb = group
        .controller("hugetlb")
        .map(|dir| hugetlb(&|name| text(dir, name), &names(dir)));
    Metrics {
        hugetlb: hugetlb.unwrap_or_default(),
        pids: files("pids").map(|read| pids(&read)),
        cpu: Some(cpu(&either("cpuacct"), &either("cpu"))),
        memory: files("memory").map(|read| memory(&read)),
        memory_oom_control: files("memory").map(|read| oom_control(&read)),
        blkio: files("blkio").map(|read| blkio(&read, devices)),
        rdma: files("rdma").map(|read| Rdma {
            current: rdma(read("rdma.current")),
            limit: rdma(read("rdma.max")),
        }),
        ..Metrics::default()
    }
}

pub(super) fn hugetlb(read: Read<'_>, names: &[String]) -> Vec<Hugetlb> {
    let entry = |size: &str| {
        let value = |file| number(read(&format!("hugetlb.{size}.{file}")), 0);
        Hugetlb {
            usage: value("usage_in_bytes"),
            max: value("max_usage_in_bytes"),
            failcnt: value("failcnt"),
            pagesize: size.to_owned(),
        }
    };
    page_sizes(names, "usage_in_bytes").map(entry).collect()
}

pub(super) fn pids(read: Read<'_>) -> Pids {
    Pids {
        current: number(read("pids.current"), 0),
        limit: number(read("pids.max"), 0),
    }
}

pub(super) fn cpu(accounting: Read<'_>, bandwidth: Read<'_>) -> Cpu {
    let ticks = table(accounting("cpuacct.stat"));
    let throttling = table(bandwidth("cpu.stat"));
    let of = |table: &HashMap<String, u64>, key: &str| table.get(key).copied().unwrap_or_default();
    let each = accounting("cpuacct.usage_percpu").unwrap_or_default();
    Cpu {
        usage: CpuUsage {
            total: number(accounting("cpuacct.usage"), 0),
            kernel: of(&ticks, "system").saturating_mul(TICK),
            user: of(&ticks, "user").saturating_mul(TICK),
            per_cpu: each
                .split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect(),
        },
        throttling: CpuThrottling {
            periods: of(&throttling, "nr_periods"),
            throttled_periods: of(&throttling, "nr_throttled"),
            throttled_time: of(&throttling, "throttled_time"),
        },
    }
}

pub(super) fn memory(read: Read<'_>) -> Memory {
    let stat = table(read("memory.stat"));
    let of = |key: &str| stat.get(key).copied().unwrap_or_default();
    let entry = |prefix: &str| {
        let value = |file| number(read(&format!("{prefix}.{file}")), 0);
        Some(MemoryEntry {
            limit: value("limit_in_bytes"),
            usage: value("usage_in_bytes"),
            max: value("max_usage_in_bytes"),
            failcnt: value("failcnt"),
        })
    };
    Memory {
        cache: of("cache"),
        rss: of("rss"),
        rss_huge: of("rss_huge"),
        mapped_file: of("mapped_file"),
        dirty: of("dirty"),
        writeback: of("writeback"),
        pg_pg_in: of("pgpgin"),
        pg_pg_out: of("pgpgout"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: of("hierarchical_memory_limit"),
        hierarchical_swap_limit: of("hierarchical_memsw_limit"),
        total_cache: of("total_cache"),
        total_rss: of("total_rss"),
        total_rss_huge: of("total_rss_huge"),
        total_mapped_file: of("total_mapped_file"),
        total_dirty: of("total_dirty"),
        total_writeback: of("total_writeback"),
        total_pg_pg_in: of("total_pgpgin"),
        total_pg_pg_out: of("total_pgpgout"),
        total_pg_fault: of("total_pgfault"),
        total_pg_maj_fault: of("total_pgmajfault"),
        total_inactive_anon: of("total_inactive_anon"),
        total_active_anon: of("total_active_anon"),
        total_inactive_file: of("total_inactive_file"),
        total_active_file: of("total_active_file"),
        total_unevictable: of("total_unevictable"),
        usage: entry("memory"),
        swap: entry("memory.memsw"),
        kernel: entry("memory.kmem"),
        kernel_tcp: entry("memory.kmem.tcp"),
    }
}

pub(super) fn oom_control(read: Read<'_>) -> MemoryOomControl {
    let table = table(read("memory.oom_control"));
    let of = |key: &str| table.get(key).copied().unwrap_or_default();
    MemoryOomControl {
        oom_kill_disable: of("oom_kill_disable"),
        under_oom: of("under_oom"),
        oom_kill: of("oom_kill"),
    }
}

/// The scheduler's files where they hold something, else those of the throttling.
pub(super) fn blkio(read: Read<'_>, devices: &Devices) -> Blkio {
    let list = |file: &str| entries(read(file), devices);
    if read("blkio.io_serviced_recursive").is_some() {
        let scheduler = Blkio {
            io_service_bytes_recursive: list("blkio.io_service_bytes_recursive"),
            io_serviced_recursive: list("blkio.io_serviced_recursive"),
            io_queued_recursive: list("blkio.io_queued_recursive"),
            io_service_time_recursive: list("blkio.io_service_time_recursive"),
            io_wait_time_recursive: list("blkio.io_wait_time_recursive"),
            io_merged_recursive: list("blkio.io_merged_recursive"),
            io_time_recursive: list("blkio.time_recursive"),
            sectors_recursive: list("blkio.sectors_recursive"),
        };
        if scheduler != Blkio::default() {
            return scheduler;
        }
    }
    Blkio {
        io_service_bytes_recursive: list("blkio.throttle.io_service_bytes"),
        io_serviced_recursive: list("blkio.throttle.io_serviced"),
        ..Blkio::default()
    }
}

/// Lines of `major:minor [operation] value`; the sum over all devices at the end has no number.
fn entries(text: Option<String>, devices: &Devices) -> Vec<BlkioEntry> {
    let text = text.unwrap_or_default();
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [number, op, value] => devices.entry(number, op, value.parse().ok()?),
            [number, value] => devices.entry(number, "", value.parse().ok()?),
            _ => None,
        }
    };
    text.lines().filter_map(line).collect()
}
