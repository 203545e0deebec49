//! Which files are written, in which order.

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxNetwork, LinuxRdma, LinuxResources};

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
pub(super) struct Plan<'a> {
    pub(super) v2: bool,
    pub(super) now: Now<'a>,
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
    if let Some(network) = resources.network() {
        plan.network(network)?;
    }
    if let Some(rdma) = resources.rdma() {
        plan.rdma(rdma)?;
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
    pub(super) fn write(
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

    pub(super) fn has(&self, controller: &str, file: &str) -> bool {
        (self.now)(controller, file).is_some()
    }

    /// Bytes as the version writes them; `None` for 0, which is Go's word for not set.
    pub(super) fn bytes(&self, member: &str, value: Option<i64>) -> Result<Option<String>, String> {
        match value {
            None | Some(0) => Ok(None),
            Some(-1) => Ok(Some(if self.v2 { "max" } else { "-1" }.into())),
            Some(bytes @ 1..) => Ok(Some(bytes.to_string())),
            Some(other) => Err(format!(
                "linux.resources.{member}: {other} is neither a size in bytes nor -1 for no limit"
            )),
        }
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

    /// The class and the priorities that packets get, which only v1 has.
    fn network(&mut self, network: &LinuxNetwork) -> Result<(), String> {
        let class = network.class_id().filter(|class| *class != 0);
        let priorities = network.priorities().as_deref().unwrap_or_default();
        if self.v2 && (class.is_some() || !priorities.is_empty()) {
            return Err(
                "linux.resources.network: cgroup v2 has neither net_cls nor net_prio".into(),
            );
        }
        if let Some(class) = class {
            let member = "network.classID";
            self.write(member, "net_cls", "net_cls.classid", class.to_string());
        }
        for one in priorities {
            let value = format!("{} {}", one.name(), one.priority());
            let member = "network.priorities";
            self.write(member, "net_prio", "net_prio.ifpriomap", value);
        }
        Ok(())
    }

    fn rdma(&mut self, devices: &HashMap<String, LinuxRdma>) -> Result<(), String> {
        let mut devices: Vec<_> = devices.iter().collect();
        devices.sort_by_key(|(name, _)| *name);
        for (name, limits) in devices {
            let mut value = name.clone();
            for (key, limit) in [
                ("hca_handle", limits.hca_handles()),
                ("hca_object", limits.hca_objects()),
            ] {
                if let Some(limit) = limit {
                    value += &format!(" {key}={limit}");
                }
            }
            if value == *name {
                return Err(format!(
                    "linux.resources.rdma.{name}: it has neither hcaHandles nor hcaObjects"
                ));
            }
            self.write("rdma", "rdma", "rdma.max", value);
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
