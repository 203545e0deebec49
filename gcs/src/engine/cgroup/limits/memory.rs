//! `linux.resources.memory`.

use oci_spec::runtime::LinuxMemory;

use super::plan::Plan;

impl Plan<'_> {
    pub(super) fn memory(&mut self, memory: &LinuxMemory) -> Result<(), String> {
        let limit = self.bytes("memory.limit", memory.limit())?;
        // As runc: without a limit of memory there is none of both together.
        let counts_swap = self.has("memory", "memory.memsw.limit_in_bytes")
            || self.has("memory", "memory.swap.max");
        let both = match (memory.limit(), memory.swap()) {
            (Some(-1), None | Some(0)) if counts_swap => Some(-1),
            (_, both) => both,
        };
        let swap = self.bytes("memory.swap", both)?;
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
        if kernel.is_some_and(|bytes| bytes > 0) {
            return Err(
                "linux.resources.memory.kernel: Linux has no limit of its own for the memory of the kernel any more"
                    .into(),
            );
        }
        let buffers = self.bytes("memory.kernelTCP", memory.kernel_tcp())?;
        if self.v2 {
            if memory.kernel_tcp().is_some_and(|bytes| bytes > 0) {
                return Err("linux.resources.memory.kernelTCP: cgroup v2 has no such limit".into());
            }
            self.memory_v2(memory, both, limit, reservation)
        } else {
            self.memory_v1(memory, limit, swap, reservation);
            if let Some(value) = buffers {
                let file = "memory.kmem.tcp.limit_in_bytes";
                self.write("memory.kernelTCP", "memory", file, value);
            }
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
        both: Option<i64>,
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
        let swap = match both {
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
}
