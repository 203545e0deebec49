//! Which files are written, in which order.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// The member of `linux.resources` that asks for it.
    pub member: &'static str,
    /// As in `/proc/cgroups`; v2 has one directory for all.
    pub controller: &'static str,
    pub file: String,
    pub value: String,
}

/// What the files say now, by controller and name; `None` where there is none.
pub(super) type Now<'a> = &'a dyn Fn(&str, &str) -> Option<String>;

/// The writes in their order.
struct Plan<'a> {
    v2: bool,
    now: Now<'a>,
    writes: Vec<Write>,
}

pub(super) fn plan(
    v2: bool,
    resources: &LinuxResources,
    now: Now<'_>,
) -> Result<Vec<Write>, String> {
    let mut plan = Plan {
        v2,
        now,
        writes: Vec::new(),
    };
    if let Some(memory) = resources.memory() {
        plan.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        plan.cpu(cpu)?;
    }
    if let Some(pids) = resources.pids() {
        match pids.limit() {
            // Go writes 0 for what is not set.
            0 => {}
            limit @ 1.. => plan.write("pids.limit", "pids", "pids.max", limit.to_string()),
            _ => plan.write("pids.limit", "pids", "pids.max", "max".into()),
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        plan.hugepages(limit)?;
    }
    if resources.network().is_some() {
        return Err("linux.resources.network cannot be changed".into());
    }
    if resources
        .rdma()
        .as_ref()
        .is_some_and(|rdma| !rdma.is_empty())
    {
        return Err("linux.resources.rdma cannot be changed".into());
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        plan.unified(file, value)?;
    }
    if let Some(block) = resources.block_io() {
        plan.block(block)?;
    }
    Ok(plan.writes)
}

impl Plan<'_> {
    fn write(
        &mut self,
        member: &'static str,
        controller: &'static str,
        file: impl Into<String>,
        value: String,
    ) {
        self.writes.push(Write {
            member,
            controller,
            file: file.into(),
            value,
        });
    }

    fn has(&self, controller: &str, file: &str) -> bool {
        (self.now)(controller, file).is_some()
    }

    /// Bytes as the version writes them; `None` for 0, which is Go's word for not set.
    fn bytes(&self, member: &str, value: Option<i64>) -> Result<Option<String>, String> {
        match value {
            None | Some(0) => Ok(None),
            Some(-1) => Ok(Some(if self.v2 { "max" } else { "-1" }.into())),
            Some(bytes @ 1..) => Ok(Some(bytes.to_string())),
            Some(other) => Err(format!(
                "linux.resources.{member}: {other} is neither a size in bytes nor -1 for no limit"
            )),
        }
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), String> {
        let limit = self.bytes("memory.limit", memory.limit())?;
        let swap = self.bytes("memory.swap", memory.swap())?;
        let reservation = self.bytes("memory.reservation", memory.reservation())?;
        if let (Some(limit @ 1..), Some(swap @ 1..)) = (memory.limit(), memory.swap()) {
            if swap < limit {
                return Err(format!(
                    "linux.resources.memory.swap: {swap} is memory and swap together, and below memory.limit, which is {limit}"
                ));
            }
        }
        #[allow(deprecated)] // sent by hosts all the same
        let kernel = memory.kernel();
        for (name, value) in [("kernel", kernel), ("kernelTCP", memory.kernel_tcp())] {
            if value.is_some_and(|value| value > 0) {
                return Err(format!(
                    "linux.resources.memory.{name}: Linux has no limit of its own for the memory of the kernel any more"
                ));
            }
        }
        if self.v2 {
            self.memory_v2(memory, limit, reservation)
        } else {
            self.memory_v1(memory, limit, swap, reservation);
            Ok(())
        }
    }

    /// v1 counts memory and swap together, and wants limit <= both at every moment.
    fn memory_v1(
        &mut self,
        memory: &LinuxMemory,
        limit: Option<String>,
        swap: Option<String>,
        reservation: Option<String>,
    ) {
        let both_now = (self.now)("memory", "memory.memsw.limit_in_bytes");
        let both_now = both_now.and_then(|text| text.trim().parse::<i64>().ok());
        let raised = match (memory.limit(), both_now) {
            (Some(-1), _) => true,
            (Some(limit), Some(both)) => limit > both,
            _ => false,
        };
        let limit = limit.map(|value| ("memory.limit", "memory.limit_in_bytes", value));
        let swap = swap.map(|value| ("memory.swap", "memory.memsw.limit_in_bytes", value));
        let order = if raised { [swap, limit] } else { [limit, swap] };
        for (member, file, value) in order.into_iter().flatten() {
            self.write(member, "memory", file, value);
        }
        if let Some(value) = reservation {
            let file = "memory.soft_limit_in_bytes";
            self.write("memory.reservation", "memory", file, value);
        }
        if let Some(value) = memory.swappiness() {
            let file = "memory.swappiness";
            self.write("memory.swappiness", "memory", file, value.to_string());
        }
        if let Some(disable) = memory.disable_oom_killer() {
            let value = u8::from(disable).to_string();
            self.write(
                "memory.disableOOMKiller",
                "memory",
                "memory.oom_control",
                value,
            );
        }
    }

    /// v2 counts swap apart.
    fn memory_v2(
        &mut self,
        memory: &LinuxMemory,
        limit: Option<String>,
        reservation: Option<String>,
    ) -> Result<(), String> {
        if memory.swappiness().is_some() || memory.disable_oom_killer() == Some(true) {
            return Err(
                "linux.resources.memory: cgroup v2 has neither swappiness nor disableOOMKiller"
                    .into(),
            );
        }
        let current = |file: &str| {
            let text = (self.now)("memory", file)?;
            text.trim().parse::<i64>().ok()
        };
        let limit_bytes = match memory.limit() {
            None | Some(0) => current("memory.max"),
            Some(-1) => None,
            bytes => bytes,
        };
        let swap = match memory.swap() {
            None | Some(0) => None,
            Some(-1) => Some("max".to_owned()),
            Some(both) => {
                let memory = limit_bytes.ok_or(
                    "linux.resources.memory.swap: it needs memory.limit, and the container has none",
                )?;
                let swap = both.checked_sub(memory).filter(|swap| *swap >= 0).ok_or_else(|| {
                    format!("linux.resources.memory.swap: {both} is memory and swap together, and below the memory limit, which is {memory}")
                })?;
                Some(swap.to_string())
            }
        };
        if memory.check_before_update() == Some(true) {
            let used = current("memory.current");
            if let (Some(limit @ 1..), Some(used)) = (memory.limit(), used) {
                if used >= limit {
                    return Err(format!(
                        "linux.resources.memory.limit: the container uses {used} bytes, more than {limit}"
                    ));
                }
            }
        }
        for (member, file, value) in [
            ("memory.swap", "memory.swap.max", swap),
            ("memory.limit", "memory.max", limit),
            ("memory.reservation", "memory.low", reservation),
        ] {
            if let Some(value) = value {
                self.write(member, "memory", file, value);
            }
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), String> {
        let shares = cpu.shares().filter(|shares| *shares != 0);
        let quota = cpu.quota().filter(|quota| *quota != 0);
        let period = cpu.period().filter(|period| *period != 0);
        let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
        let realtime = cpu.realtime_period().filter(|period| *period != 0);
        let text = |n: Option<u64>| n.map(|n| n.to_string());
        let quota_text = quota.map(|quota| quota.max(-1).to_string());
        let files = if self.v2 {
            if runtime.or(realtime.map(|_| 0)).is_some() {
                return Err("linux.resources.cpu: cgroup v2 has no real-time budget".into());
            }
            vec![
                ("cpu.shares", "cpu.weight", text(shares.map(weight))),
                ("cpu.quota", "cpu.max", self.cpu_max(quota, period)),
                ("cpu.burst", "cpu.max.burst", text(cpu.burst())),
            ]
        } else {
            vec![
                ("cpu.shares", "cpu.shares", text(shares)),
                ("cpu.period", "cpu.cfs_period_us", text(period)),
                ("cpu.quota", "cpu.cfs_quota_us", quota_text),
                ("cpu.burst", "cpu.cfs_burst_us", text(cpu.burst())),
                ("cpu.realtimePeriod", "cpu.rt_period_us", text(realtime)),
                (
                    "cpu.realtimeRuntime",
                    "cpu.rt_runtime_us",
                    runtime.map(|n| n.to_string()),
                ),
            ]
        };
        let idle = cpu.idle().map(|idle| idle.to_string());
        for (member, file, value) in files.into_iter().chain([("cpu.idle", "cpu.idle", idle)]) {
            if let Some(value) = value {
                self.write(member, "cpu", file, value);
            }
        }
        for (member, file, value) in [
            ("cpu.cpus", "cpuset.cpus", cpu.cpus()),
            ("cpu.mems", "cpuset.mems", cpu.mems()),
        ] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                self.write(member, "cpuset", file, value.to_owned());
            }
        }
        Ok(())
    }

    /// `quota period` in microseconds; the part that is not given is that of now.
    fn cpu_max(&self, quota: Option<i64>, period: Option<u64>) -> Option<String> {
        if quota.is_none() && period.is_none() {
            return None;
        }
        let now = (self.now)("cpu", "cpu.max").unwrap_or_default();
        let mut now = now.split_whitespace();
        let quota_now = now.next().unwrap_or("max").to_owned();
        let period_now = now.next().unwrap_or("100000").to_owned();
        let quota = match quota {
            None => quota_now,
            Some(quota @ 1..) => quota.to_string(),
            Some(_) => "max".into(),
        };
        Some(match period {
            None => format!("{quota} {period_now}"),
            Some(period) => format!("{quota} {period}"),
        })
    }

    fn hugepages(&mut self, limit: &LinuxHugepageLimit) -> Result<(), String> {
        let size = limit.page_size();
        if size.is_empty() || !size.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!(
                "linux.resources.hugepageLimits: {size:?} is no page size such as 2MB"
            ));
        }
        // Here 0 is a limit.
        let value = match self.bytes("hugepageLimits", Some(limit.limit()))? {
            Some(value) => value,
            None => "0".into(),
        };
        let file = if self.v2 { "max" } else { "limit_in_bytes" };
        let reserved = format!("hugetlb.{size}.rsvd.{file}");
        let has_reserved = self.has("hugetlb", &reserved);
        let plain = format!("hugetlb.{size}.{file}");
        self.write("hugepageLimits", "hugetlb", plain, value.clone());
        if has_reserved {
            self.write("hugepageLimits", "hugetlb", reserved, value);
        }
        Ok(())
    }

    /// Files of v2 by their own names.
    fn unified(&mut self, file: &str, value: &str) -> Result<(), String> {
        if !self.v2 {
            return Err("linux.resources.unified: it needs cgroup v2".into());
        }
        let named = file.contains('.') && !file.contains('/') && !file.starts_with("cgroup.");
        if !named {
            return Err(format!(
                "linux.resources.unified: {file:?} is no file of a controller"
            ));
        }
        self.write("unified", "", file, value.to_owned());
        Ok(())
    }

    fn block(&mut self, block: &LinuxBlockIo) -> Result<(), String> {
        let leaf = block.leaf_weight().filter(|weight| *weight != 0).is_some();
        let each = block.weight_device().as_ref();
        if leaf || each.is_some_and(|list| !list.is_empty()) {
            return Err(
                "linux.resources.blockIO: neither leafWeight nor weightDevice can be changed"
                    .into(),
            );
        }
        if let Some(weight @ 1..) = block.weight() {
            let weight = u64::from(weight);
            // The scheduler's file, when it is built in, takes the number as it is.
            let (file, value) = match (self.v2, self.has("blkio", "io.bfq.weight")) {
                (true, true) => ("io.bfq.weight", weight),
                (true, false) => ("io.weight", 1 + weight.saturating_sub(10) * 9999 / 990),
                (false, _) if self.has("blkio", "blkio.bfq.weight") => ("blkio.bfq.weight", weight),
                (false, _) => ("blkio.weight", weight),
            };
            self.write("blockIO.weight", "blkio", file, value.to_string());
        }
        let lists = [
            (
                "blockIO.throttleReadBpsDevice",
                block.throttle_read_bps_device(),
                "read_bps",
                "rbps",
            ),
            (
                "blockIO.throttleWriteBpsDevice",
                block.throttle_write_bps_device(),
                "write_bps",
                "wbps",
            ),
            (
                "blockIO.throttleReadIOPSDevice",
                block.throttle_read_iops_device(),
                "read_iops",
                "riops",
            ),
            (
                "blockIO.throttleWriteIOPSDevice",
                block.throttle_write_iops_device(),
                "write_iops",
                "wiops",
            ),
        ];
        for (member, list, old, new) in lists {
            for device in list.iter().flatten() {
                self.throttle(member, device, old, new);
            }
        }
        Ok(())
    }

    /// 0 takes the limit away.
    fn throttle(
        &mut self,
        member: &'static str,
        device: &LinuxThrottleDevice,
        old: &str,
        new: &str,
    ) {
        let number = format!("{}:{}", device.major(), device.minor());
        let (file, value) = match (self.v2, device.rate()) {
            (true, 0) => ("io.max".into(), format!("{number} {new}=max")),
            (true, rate) => ("io.max".into(), format!("{number} {new}={rate}")),
            (false, rate) => (
                format!("blkio.throttle.{old}_device"),
                format!("{number} {rate}"),
            ),
        };
        self.write(member, "blkio", file, value);
    }
}

/// Shares of v1 (2 to 262144, usually 1024) as a weight of v2 (1 to 10000, usually 100), by the
/// curve that all three points lie on; other runtimes use the same.
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            #[allow(clippy::cast_precision_loss)] // below 2^18
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 1 to 10000
            let weight = 10_f64.powf(exponent).ceil() as u64;
            weight.clamp(1, 10_000)
        }
    }
}
