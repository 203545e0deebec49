//! The boot lines of the hosts of 2026 (protocol 16.1).

use std::io::Read;
use std::time::Duration;

use super::boot::{cgroups_mounted, flags, works};
use super::service::{settle, shows_secrets};
use super::{Area, Scenario};
use crate::{contains, fail, same, that, Boot, Checked, Expected, Guest, Lab, BUSYBOX, LIMIT};
use uvm_host::log::Level;
use uvm_vm::profile::{BootForm, ColdDisk, Root};

pub const AREA: Area = Area {
    name: "boot lines",
    scenarios: SCENARIOS,
    not_run: &[],
};

fn form(b: &mut Boot, form: BootForm) {
    b.profile.form = form;
}

/// A program of the VM under `vsockexec -r`: its status, and what the host gets at the port.
fn relayed(vm: &Guest, options: &str, program: &[&str]) -> Checked<(u32, String)> {
    let port = vm.open_stream()?;
    let options = options.replace("PORT", &port.to_string());
    let words: Vec<&str> = ["/bin/vsockexec", "-r"]
        .into_iter()
        .chain(options.split_whitespace())
        .chain(program.iter().copied())
        .collect();
    let out = vm.external(&words).limit(LIMIT).run()?;
    let mut said = String::new();
    if vm.has_stream(port) {
        vm.take_stream(port, LIMIT)?.read_to_string(&mut said)?;
    } else {
        vm.close_stream(port);
    }
    Ok((out.code, said))
}

type Change = Box<dyn FnOnce(&mut Boot)>;

/// The parts of a line that are on or off, spread over a few boots.
fn parts(lab: &Lab) -> Checked<[Change; 5]> {
    let root = lab.root_disk()?;
    Ok([
        Box::new(|b| {
            form(b, BootForm::BothOutputs);
            b.profile.kernel_options.push("console=tty".into());
            flags(b, "-disable-time-sync");
        }),
        Box::new(|b| {
            form(b, BootForm::Shell);
            b.profile.guest_log_level = "info".into();
            flags(b, "-scrub-logs=false -core-dump-location /run/core.%p");
        }),
        Box::new(move |b| {
            form(b, BootForm::Reconnect);
            b.profile.root = Some(Root::Scsi(ColdDisk::boot(root)));
            b.profile.writable_overlays = true;
        }),
        Box::new(|b| {
            form(b, BootForm::ReconnectConsole);
            b.profile.serial_console = false;
            flags(b, "-scrub-logs=true -disable-time-sync");
        }),
        // A host that wants no log.
        Box::new(|b| {
            let line = "-e 1 /bin/vsockexec /bin/gcs -v4 -log-format json -loglevel info";
            b.profile.init_line = Some(line.into());
        }),
    ])
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (340, |lab| {
        let vm = lab.boot(|b| form(b, BootForm::Reconnect))?;
        vm.wait_log(LIMIT, |record| record.complete)
            .expected("a record of the log")?;
        works(&vm)?;
        settle(&vm)
    }),
    (341, |lab| {
        let vm = lab.boot(|b| {
            form(b, BootForm::Reconnect);
            b.options.late_log = true;
        })?;
        works(&vm)?;
        std::thread::sleep(Duration::from_secs(5));
        same(
            "log connections before the host listens",
            None,
            vm.timings().log,
        )?;
        vm.accept_log(None)?;
        // The oldest record and the newest.
        vm.wait_log(LIMIT, |record| {
            record.to_string().contains("service starts")
        })
        .expected("what was logged before the host listened")?;
        settle(&vm)
    }),
    (342, |lab| {
        let vm = lab.guest()?;
        vm.tools()?;
        let busybox = format!("{}/bin/busybox", crate::TOOLS);
        let script = |script| [busybox.as_str(), "sh", "-c", script];
        let out = "echo out; echo err >&2; exit 7";
        for (options, program, code, said) in [
            ("-e PORT", &script(out)[..], 7, "err\n"),
            ("-o PORT", &script(out), 7, "out\n"),
            ("-i 1 -o 5 -e PORT", &script(out), 7, "out\nerr\n"),
            ("-e PORT", &script("kill -9 $$"), 137, ""),
            ("-e PORT", &["/no/such/program"], 127, ""),
            ("", &script("exit 7"), 1, ""),
            ("-i PORT", &script("exit 7"), 1, ""),
        ] {
            let seen = relayed(&vm, options, program)?;
            let what = format!("status and output under -r {options}");
            same(&what, (code, said.to_owned()), seen)?;
        }
        Ok(())
    }),
    (343, |lab| {
        for console in [BootForm::Console, BootForm::ReconnectConsole] {
            works(&lab.boot(|b| form(b, console))?)?;
            let initrd = lab.tools_initrd(true)?;
            let vm = lab.boot(|b| {
                b.profile.root = Some(Root::Initrd(initrd));
                form(b, console);
            })?;
            let service = vm.sh("echo $PPID")?;
            that(service != "1", "a service beside the shell", "pid 1")?;
            let shell = vm.sh("grep -lx sh /proc/[0-9]*/comm | head -n 1")?;
            that(!shell.is_empty(), "a shell at the console", "none")?;
            works(&vm)?;
        }
        Ok(())
    }),
    (344, |lab| {
        for change in parts(lab)? {
            let vm = lab.boot(change)?;
            works(&vm)?;
            if vm.sh("grep -q ' -w ' /proc/cmdline && echo yes || true")? == "yes" {
                vm.sh("for dir in /etc /var; do : > $dir/lab && rm $dir/lab || exit 1; done")?;
            }
        }
        Ok(())
    }),
    (345, |lab| {
        let vm = lab.boot(|b| {
            b.profile.init_line = Some(
                "-q 5 -e 1 /bin/vsockexec -n7 -e 109 /bin/gcs -v4 -log-format json \
                 -first -second=1 -third 1 --fourth -loglevel info"
                    .into(),
            );
        })?;
        for option in ["-q 5", "-n7", "-first", "-second=1", "-third 1", "--fourth"] {
            vm.wait_log(LIMIT, |record| {
                record.level == Level::Warning && record.to_string().contains(option)
            })
            .map_err(|_| fail(format!("a warning that names {option}"), "none"))?;
        }
        works(&vm)?;
        // Under a shell the three are programs of their own.
        let initrd = lab.tools_initrd(false)?;
        let vm = lab.boot(|b| {
            b.profile.root = Some(Root::Initrd(initrd));
            b.profile.init_line = Some(format!(
                "-q 5 -e 1 {BUSYBOX} sh -c \"exec /bin/vsockexec -n7 -e 109 /bin/gcs -v4 \
                 -log-format json -first\""
            ));
        })?;
        for option in ["-q 5", "-n7", "-first"] {
            vm.wait_log(LIMIT, |record| record.to_string().contains(option))
                .map_err(|_| fail(format!("a warning that names {option}"), "none"))?;
        }
        works(&vm)
    }),
    (346, |lab| {
        for (flag, shown) in [
            (None, false),
            (Some("-scrub-logs=true"), false),
            (Some("-scrub-logs=false"), true),
        ] {
            let what = format!("values in the log with {flag:?}");
            same(&what, shown, shows_secrets(lab, flag)?)?;
        }
        Ok(())
    }),
    (347, |lab| {
        let option = |text: &str| {
            let option = format!("hcsshim.cgroup={text}");
            lab.boot(|b| b.profile.kernel_options.push(option))
        };
        cgroups_mounted(&option("v1x")?, "cgroup2")?;
        let v1 = option("v1")?;
        contains(
            "the line",
            " hcsshim.cgroup=v1 ",
            &v1.sh("cat /proc/cmdline")?,
        )?;
        cgroups_mounted(&v1, "cgroup")
    }),
];
