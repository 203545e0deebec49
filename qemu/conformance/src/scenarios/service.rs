//! The service's log, its flags' effects, memory and the clock.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use super::boot::{flags, works};
use super::{Area, Scenario};
use crate::{
    codes, contains, fail, refused, same, that, Boot, Checked, Expected, Guest, Lab, LIMIT,
};
use uvm_host::log::{Level, Record};

pub const AREA: Area = Area {
    name: "service",
    scenarios: SCENARIOS,
    not_run: &[],
};

/// A VM and all records of its log.
fn logged(lab: &Lab, change: impl FnOnce(&mut Boot)) -> Checked<(Guest, Records)> {
    let records = Records::default();
    let sink = records.clone();
    let vm = lab.boot(|b| {
        b.log_sink = Some(Box::new(move |record| sink.lock().push(record.clone())));
        change(b);
    })?;
    Ok((vm, records))
}

#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<Record>>>);

impl Records {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is no record with any of these texts among those that the guest has logged by now.
    fn none_with(&self, vm: &Guest, words: &[&str]) -> Checked {
        settle(vm)?;
        let all = self.lock();
        let shown = all.iter().map(ToString::to_string);
        let found = shown
            .into_iter()
            .find(|r| words.iter().any(|w| r.contains(w)));
        match found {
            None => Ok(()),
            Some(record) => Err(fail(format!("no record with {words:?}"), record)),
        }
    }
}

/// Makes the kernel log something and waits until the guest has sent it. What was logged before has
/// then arrived.
pub(super) fn settle(vm: &Guest) -> Checked {
    let marker = format!("marker {}", vm.fresh("settled"));
    vm.sh(&format!("echo '<3>{marker}' > /dev/kmsg"))?;
    vm.wait_log(LIMIT, |record| record.to_string().contains(&marker))
        .map(drop)
        .expected("a message of the kernel in the log")
}

/// Whether a record says that memory ran out in this group.
fn tells(record: &Record, group: &str) -> bool {
    let text = record.to_string().to_lowercase();
    let memory = ["out of memory", "oom", "memory"];
    !record.fields.contains_key("kmsg")
        && record.level <= Level::Warning
        && text.contains(group)
        && memory.iter().any(|word| text.contains(word))
}

/// Whether the log of a VM with this flag has values of environments and annotations.
pub(super) fn shows_secrets(lab: &Lab, flag: Option<&str>) -> Checked<bool> {
    let (vm, records) = logged(lab, |b| {
        b.profile.guest_log_level = "trace".into();
        b.profile.service_flags.extend(flag.map(str::to_owned));
    })?;
    vm.shell("true")?.env("SECRET", "hunter2-env").run()?;
    let missing = vm.external(&["/no/such/program"]);
    refused(missing.env("SECRET", "hunter2-env").start(), codes::FAIL)?;
    let secret = |spec: &mut serde_json::Value| {
        spec["annotations"] = json!({"secret": "hunter2-note"});
        spec["process"]["env"] = json!(["PATH=/bin", "SECRET=hunter2-env"]);
    };
    vm.container("true").edit(secret).run()?;
    let broken = vm.container("").args(&["/no/such/program"]).edit(secret);
    drop(broken.try_create()?);
    settle(&vm)?;
    let all = records.lock();
    Ok(all
        .iter()
        .any(|record| record.to_string().contains("hunter2")))
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (301, |lab| {
        let (vm, records) = logged(lab, |b| b.profile.guest_log_level = "trace".into())?;
        works(&vm)?;
        refused(vm.external(&["/no/such/program"]).start(), codes::FAIL)?;
        settle(&vm)?;
        let all = records.lock();
        that(!all.is_empty(), "records", "none")?;
        match all.iter().find(|record| !record.complete) {
            // What is not JSON ends the VM by strict mode.
            Some(record) => Err(fail("level, msg and time in every record", record)),
            None => Ok(()),
        }
    }),
    (302, |lab| {
        let (vm, records) = logged(lab, |_| {})?;
        let noise = "echo NOISE; echo NOISE >&2";
        let silent = vm.shell(noise)?.without_stdout().without_stderr();
        same("exit code", 0, silent.run()?.code)?;
        let container = vm.container(&format!("{noise}; sleep 1000")).create()?;
        container.init().without_stdout().without_stderr().start()?;
        let further = container.exec(noise).without_stdout().without_stderr();
        same("exit code", 0, further.run()?.code)?;
        container.remove()?;
        // An orphan of a process that is long gone.
        vm.sh(&format!(
            "( ( sleep 0.2; {noise}; : > /run/noise-made ) & )"
        ))?;
        vm.sh("until [ -e /run/noise-made ]; do usleep 50000; done")?;
        records.none_with(&vm, &["NOISE"])
    }),
    (303, |lab| {
        let vm = lab.boot(|b| flags(b, "-core-dump-location /run/core.%p"))?;
        let pattern = vm.sh("cat /proc/sys/kernel/core_pattern")?;
        same("core_pattern", "/run/core.%p", pattern.as_str())
    }),
    (304, |lab| {
        let read = "awk '/MemTotal/ {print $2 * 1024}' /proc/meminfo; cd /sys/fs/cgroup; \
                    cat containers/memory.max 2>/dev/null || \
                    cat memory/containers/memory.limit_in_bytes; cat /proc/$PPID/cgroup";
        for reserve in [75 << 20, 100_000_000_u64] {
            let vm = lab.boot(|b| flags(b, &format!("-root-mem-reserve-bytes {reserve}")))?;
            let text = vm.sh(read)?;
            let mut lines = text.lines();
            let mut number = || lines.next().unwrap_or_default().parse::<u64>();
            let (total, limit) = (number()?, number()?);
            let wanted = total.saturating_sub(reserve);
            // The kernel rounds down to pages.
            that(
                limit <= wanted && wanted - limit < 4096,
                format!("a limit of {wanted} bytes"),
                limit,
            )?;
            contains("the service's cgroup", ":/gcs", &text)?;
        }
        Ok(())
    }),
    (305, |lab| {
        for cgroup in ["v2", "v1"] {
            let vm = lab.boot(|b| {
                b.profile
                    .kernel_options
                    .push(format!("hcsshim.cgroup={cgroup}"));
                // Soon full.
                b.profile.memory_mib = 160;
                flags(b, "-gcs-mem-limit-bytes 100000");
            })?;
            vm.wait_log(LIMIT, |record| tells(record, "gcs"))
                .expected("a record that the service is over its threshold")?;
            // Wants more memory than there is.
            let out = vm.container("tail /dev/zero").run()?;
            same("exit code", 137, out.code)?;
            vm.wait_log(LIMIT, |record| tells(record, "containers"))
                .expected("a record that containers are out of memory")?;
            works(&vm)?;
        }
        Ok(())
    }),
    (306, |lab| {
        let (vm, records) = logged(lab, |b| flags(b, "-disable-time-sync=false"))?;
        let clocks = vm.sh("cat /sys/class/ptp/*/clock_name 2>/dev/null || true")?;
        if clocks.contains("hyperv") {
            return vm
                .wait_log(LIMIT, |record| {
                    record.to_string().contains("kept in step with ptp")
                })
                .map(drop)
                .expected("a record that the time is kept in step with the PTP clock");
        }
        // Without the clock, which only Hyper-V has, only a warning can be seen.
        settle(&vm)?;
        let warned = |records: &Records| {
            let all = records.lock();
            let mut own = all.iter().filter(|r| !r.fields.contains_key("kmsg"));
            own.any(|r| r.level == Level::Warning && r.to_string().to_lowercase().contains("ptp"))
        };
        that(
            warned(&records),
            "a warning that there is no PTP clock",
            "none",
        )?;
        let (vm, records) = logged(lab, |b| flags(b, "-disable-time-sync"))?;
        settle(&vm)?;
        that(
            !warned(&records),
            "nothing of it with -disable-time-sync",
            "a warning",
        )
    }),
    (307, |lab| {
        let (vm, records) = logged(lab, |_| {})?;
        vm.sh("echo '<6>lab: too chatty' > /dev/kmsg; echo '<4>lab: a warning' > /dev/kmsg")?;
        vm.wait_log(LIMIT, |record| {
            record.to_string().contains("lab: a warning")
        })
        .expected("a warning of the kernel in the log")?;
        records.none_with(&vm, &["lab: too chatty"])?;
        let vm = lab.boot(|b| flags(b, "-kmsgLogLevel 6"))?;
        vm.sh("echo '<6>lab: now wanted' > /dev/kmsg")?;
        vm.wait_log(LIMIT, |record| {
            record.to_string().contains("lab: now wanted")
        })
        .map(drop)
        .expected("all messages with -kmsgLogLevel 6")
    }),
    (308, |lab| {
        same(
            "values in the log",
            false,
            shows_secrets(lab, Some("-scrub-logs"))?,
        )
    }),
];
