//! `linux.resources.blockIO`.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::plan::Plan;

impl Plan<'_> {
    pub(super) fn block(&mut self, block: &LinuxBlockIo) -> Result<(), String> {
        let each = block.weight_device().as_deref().unwrap_or_default();
        let leaf = each.iter().any(|device| is_set(device.leaf_weight()));
        if leaf || is_set(block.leaf_weight()) {
            return Err("linux.resources.blockIO: Linux has no leafWeight any more".into());
        }
        if let Some(weight @ 1..) = block.weight() {
            let (file, value) = self.weight_file(weight);
            self.write("blockIO.weight", "blkio", file, value.to_string());
        }
        for device in each {
            let Some(weight) = device.weight().filter(|weight| *weight != 0) else {
                return Err("linux.resources.blockIO.weightDevice: it has no weight".into());
            };
            let (file, value) = match self.weight_file(weight) {
                ("blkio.weight", value) => ("blkio.weight_device", value),
                ("blkio.bfq.weight", value) => ("blkio.bfq.weight_device", value),
                unified => unified,
            };
            let value = format!("{}:{} {value}", device.major(), device.minor());
            self.write("blockIO.weightDevice", "blkio", file, value);
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

    /// The scheduler's file, when it is built in, takes the number as it is.
    fn weight_file(&self, weight: u16) -> (&'static str, u64) {
        let weight = u64::from(weight);
        match (self.v2, self.has("blkio", "io.bfq.weight")) {
            (true, true) => ("io.bfq.weight", weight),
            (true, false) => ("io.weight", 1 + weight.saturating_sub(10) * 9999 / 990),
            (false, _) if self.has("blkio", "blkio.bfq.weight") => ("blkio.bfq.weight", weight),
            (false, _) => ("blkio.weight", weight),
        }
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

fn is_set(weight: Option<u16>) -> bool {
    weight.is_some_and(|weight| weight != 0)
}
