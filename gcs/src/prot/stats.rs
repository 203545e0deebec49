//! Control group statistics: the `LCOWMetrics` member (protocol section 4.9.1). All zero or
//! empty members are left out, except those marked "always".

use super::json::{is_default, wire};

wire! {
    /// `v1.Metrics` of containerd's cgroups, as `prot.PropertiesV2` holds it.
    pub struct Metrics {
        pub hugetlb: Vec<Hugetlb> = "hugetlb" unless "is_default",
        pub pids: Option<Pids> = "pids" unless "is_default",
        pub cpu: Option<Cpu> = "cpu" unless "is_default",
        pub memory: Option<Memory> = "memory" unless "is_default",
        pub blkio: Option<Blkio> = "blkio" unless "is_default",
        pub rdma: Option<Rdma> = "rdma" unless "is_default",
        pub network: Vec<Network> = "network" unless "is_default",
        pub cgroup_stats: Option<CgroupStats> = "cgroup_stats" unless "is_default",
        pub memory_oom_control: Option<MemoryOomControl> = "memory_oom_control" unless "is_default",
    }
}

wire! {
    pub struct Hugetlb {
        /// Bytes.
        pub usage: u64 = "usage" unless "is_default",
        pub max: u64 = "max" unless "is_default",
        pub failcnt: u64 = "failcnt" unless "is_default",
        /// Such as `2MB`.
        pub pagesize: String = "pagesize" unless "is_default",
    }
}

wire! {
    #[derive(Copy, Eq)]
    pub struct Pids {
        pub current: u64 = "current" unless "is_default",
        /// 0 when there is none.
        pub limit: u64 = "limit" unless "is_default",
    }
}

wire! {
    pub struct Cpu {
        /// Always.
        pub usage: CpuUsage = "usage",
        /// Always.
        pub throttling: CpuThrottling = "throttling",
    }
}

wire! {
    /// Nanoseconds.
    pub struct CpuUsage {
        pub total: u64 = "total" unless "is_default",
        pub kernel: u64 = "kernel" unless "is_default",
        pub user: u64 = "user" unless "is_default",
        pub per_cpu: Vec<u64> = "per_cpu" unless "is_default",
    }
}

wire! {
    #[derive(Copy, Eq)]
    pub struct CpuThrottling {
        pub periods: u64 = "periods" unless "is_default",
        pub throttled_periods: u64 = "throttled_periods" unless "is_default",
        /// Nanoseconds.
        pub throttled_time: u64 = "throttled_time" unless "is_default",
    }
}

wire! {
    /// Bytes, except for the event counts.
    pub struct Memory {
        pub cache: u64 = "cache" unless "is_default",
        pub rss: u64 = "rss" unless "is_default",
        pub rss_huge: u64 = "rss_huge" unless "is_default",
        pub mapped_file: u64 = "mapped_file" unless "is_default",
        pub dirty: u64 = "dirty" unless "is_default",
        pub writeback: u64 = "writeback" unless "is_default",
        pub pg_pg_in: u64 = "pg_pg_in" unless "is_default",
        pub pg_pg_out: u64 = "pg_pg_out" unless "is_default",
        pub pg_fault: u64 = "pg_fault" unless "is_default",
        pub pg_maj_fault: u64 = "pg_maj_fault" unless "is_default",
        pub inactive_anon: u64 = "inactive_anon" unless "is_default",
        pub active_anon: u64 = "active_anon" unless "is_default",
        pub inactive_file: u64 = "inactive_file" unless "is_default",
        pub active_file: u64 = "active_file" unless "is_default",
        pub unevictable: u64 = "unevictable" unless "is_default",
        pub hierarchical_memory_limit: u64 = "hierarchical_memory_limit" unless "is_default",
        pub hierarchical_swap_limit: u64 = "hierarchical_swap_limit" unless "is_default",
        pub total_cache: u64 = "total_cache" unless "is_default",
        pub total_rss: u64 = "total_rss" unless "is_default",
        pub total_rss_huge: u64 = "total_rss_huge" unless "is_default",
        pub total_mapped_file: u64 = "total_mapped_file" unless "is_default",
        pub total_dirty: u64 = "total_dirty" unless "is_default",
        pub total_writeback: u64 = "total_writeback" unless "is_default",
        pub total_pg_pg_in: u64 = "total_pg_pg_in" unless "is_default",
        pub total_pg_pg_out: u64 = "total_pg_pg_out" unless "is_default",
        pub total_pg_fault: u64 = "total_pg_fault" unless "is_default",
        pub total_pg_maj_fault: u64 = "total_pg_maj_fault" unless "is_default",
        pub total_inactive_anon: u64 = "total_inactive_anon" unless "is_default",
        pub total_active_anon: u64 = "total_active_anon" unless "is_default",
        pub total_inactive_file: u64 = "total_inactive_file" unless "is_default",
        pub total_active_file: u64 = "total_active_file" unless "is_default",
        pub total_unevictable: u64 = "total_unevictable" unless "is_default",
        pub usage: Option<MemoryEntry> = "usage" unless "is_default",
        pub swap: Option<MemoryEntry> = "swap" unless "is_default",
        pub kernel: Option<MemoryEntry> = "kernel" unless "is_default",
        pub kernel_tcp: Option<MemoryEntry> = "kernel_tcp" unless "is_default",
    }
}

wire! {
    /// Bytes, except for `failcnt`.
    #[derive(Copy, Eq)]
    pub struct MemoryEntry {
        pub limit: u64 = "limit" unless "is_default",
        pub usage: u64 = "usage" unless "is_default",
        pub max: u64 = "max" unless "is_default",
        pub failcnt: u64 = "failcnt" unless "is_default",
    }
}

wire! {
    pub struct Blkio {
        pub io_service_bytes_recursive: Vec<BlkioEntry> = "io_service_bytes_recursive" unless "is_default",
        pub io_serviced_recursive: Vec<BlkioEntry> = "io_serviced_recursive" unless "is_default",
        pub io_queued_recursive: Vec<BlkioEntry> = "io_queued_recursive" unless "is_default",
        pub io_service_time_recursive: Vec<BlkioEntry> = "io_service_time_recursive" unless "is_default",
        pub io_wait_time_recursive: Vec<BlkioEntry> = "io_wait_time_recursive" unless "is_default",
        pub io_merged_recursive: Vec<BlkioEntry> = "io_merged_recursive" unless "is_default",
        pub io_time_recursive: Vec<BlkioEntry> = "io_time_recursive" unless "is_default",
        pub sectors_recursive: Vec<BlkioEntry> = "sectors_recursive" unless "is_default",
    }
}

wire! {
    #[derive(Eq)]
    pub struct BlkioEntry {
        /// Such as `Read`; absent for values without an operation.
        pub op: String = "op" unless "is_default",
        pub device: String = "device" unless "is_default",
        pub major: u64 = "major" unless "is_default",
        pub minor: u64 = "minor" unless "is_default",
        pub value: u64 = "value" unless "is_default",
    }
}

wire! {
    pub struct Rdma {
        pub current: Vec<RdmaEntry> = "current" unless "is_default",
        pub limit: Vec<RdmaEntry> = "limit" unless "is_default",
    }
}

wire! {
    #[derive(Eq)]
    pub struct RdmaEntry {
        pub device: String = "device" unless "is_default",
        pub hca_handles: u32 = "hca_handles" unless "is_default",
        pub hca_objects: u32 = "hca_objects" unless "is_default",
    }
}

wire! {
    #[derive(Eq)]
    pub struct Network {
        pub name: String = "name" unless "is_default",
        pub rx_bytes: u64 = "rx_bytes" unless "is_default",
        pub rx_packets: u64 = "rx_packets" unless "is_default",
        pub rx_errors: u64 = "rx_errors" unless "is_default",
        pub rx_dropped: u64 = "rx_dropped" unless "is_default",
        pub tx_bytes: u64 = "tx_bytes" unless "is_default",
        pub tx_packets: u64 = "tx_packets" unless "is_default",
        pub tx_errors: u64 = "tx_errors" unless "is_default",
        pub tx_dropped: u64 = "tx_dropped" unless "is_default",
    }
}

wire! {
    #[derive(Copy, Eq)]
    pub struct CgroupStats {
        pub nr_sleeping: u64 = "nr_sleeping" unless "is_default",
        pub nr_running: u64 = "nr_running" unless "is_default",
        pub nr_stopped: u64 = "nr_stopped" unless "is_default",
        pub nr_uninterruptible: u64 = "nr_uninterruptible" unless "is_default",
        pub nr_io_wait: u64 = "nr_io_wait" unless "is_default",
    }
}

wire! {
    #[derive(Copy, Eq)]
    pub struct MemoryOomControl {
        pub oom_kill_disable: u64 = "oom_kill_disable" unless "is_default",
        pub under_oom: u64 = "under_oom" unless "is_default",
        pub oom_kill: u64 = "oom_kill" unless "is_default",
    }
}
