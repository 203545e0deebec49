//! The sockets of the service: its dials, who inherits them, and a bridge on its standard streams.

use std::time::{Duration, Instant};

use serde_json::json;

use super::START;
use crate::{
    codes, contains, fail, not_run, refused, same, that, AnswerIs, Checked, Expected, Lab, LIMIT,
    TOOLS,
};
use uvm_host::wire::{read_frame, response_to, Frame, Rpc};
use uvm_host::UVM_ID;
use uvm_vsock::Fault;

pub fn dials(lab: &mut Lab) -> Checked {
    let ports = |port: u32| {
        let parameters = json!({"CommandArgs": [format!("{TOOLS}/bin/true")],
            "CreateInUtilityVM": true, "CreateStdOutPipe": true});
        json!({"Settings": {"ProcessParameters": parameters.to_string(),
            "VsockStdioRelaySettings": {"StdOut": port}}})
    };
    const SILENT: u32 = 0x4000_2000;
    const NOBODY: u32 = 0x4000_2001;
    let vm = lab.boot(|b| {
        b.options.faults = b.options.faults.clone().on_port(SILENT, Fault::Ignore);
    })?;
    if vm.device().is_none() {
        return Err(not_run("the kernel's vsock cannot leave a dial unanswered"));
    }
    let begun = Instant::now();
    refused(
        vm.call(Rpc::ExecuteProcess, UVM_ID, ports(NOBODY)),
        codes::FAIL,
    )?;
    let took = begun.elapsed();
    that(
        took < Duration::from_secs(10),
        "a refused dial to fail at once, not after ten attempts of two seconds",
        format!("{took:?}"),
    )?;
    // Two seconds of the kernel an attempt, ten attempts, a tenth of a second between them.
    let begun = Instant::now();
    let mut dialling = vm.send(Rpc::ExecuteProcess, UVM_ID, ports(SILENT))?;
    vm.ask(START, "{}")?.is(0)?;
    let words = refused(dialling.wait(LIMIT), codes::FAIL)?;
    let took = begun.elapsed().as_secs();
    that(
        (19..=40).contains(&took),
        "ten attempts of two seconds",
        format!("{took} s: {words}"),
    )
}

pub fn inheritance(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let more = "cd /proc/$$/fd; for f in *; do [ $f -gt 2 ] && readlink $f; done | \
                grep -c socket: || true";
    same("sockets of a process of the VM", "0", vm.sh(more)?.as_str())?;
    let flags = vm.sh(
        "cd /proc/$PPID/fd; for f in *; do [ $f -gt 2 ] || continue; \
         case $(readlink $f) in socket:*) awk '/flags/ {print $2}' ../fdinfo/$f;; esac; done",
    )?;
    // O_CLOEXEC is 02000000 (open(2)).
    let kept = flags.lines().find(|flags| {
        let value = u32::from_str_radix(flags, 8).unwrap_or(0);
        value & 0o2_000_000 == 0
    });
    that(
        kept.is_none(),
        "close-on-exec sockets of the service",
        flags.clone(),
    )?;
    let container = vm.container("sleep 1000").create()?;
    container.init().without_stdout().without_stderr().start()?;
    let sockets = "for p in 1 $$; do ls -l /proc/$p/fd; done | grep -c socket: || true";
    same(
        "sockets in a container",
        "0",
        container.sh(sockets)?.as_str(),
    )?;
    container.remove()
}

pub fn standard_streams(lab: &mut Lab) -> Checked {
    let vm = lab.boot(|_| {})?;
    let service = ["/bin/gcs", "-use-inouterr", "-v4", "-log-format", "json"];
    let mut process = vm.external(&service).open_stdin().start()?;
    let streams = (process.stdio.stdin.take(), process.stdio.stdout.take());
    let (Some(mut to), Some(mut from)) = streams else {
        return Err(fail("streams", "none"));
    };
    from.set_read_timeout(Some(LIMIT))?;
    let negotiate = json!({"MinimumVersion": 4, "MaximumVersion": 4}).to_string();
    let requests = [
        (Rpc::NegotiateProtocol as u32, negotiate),
        (START, "{}".to_owned()),
    ];
    for (id, (message, text)) in (0..).zip(requests) {
        let payload = text.into_bytes();
        Frame {
            message,
            id,
            payload,
        }
        .write(&mut to)?;
        let frame = read_frame(&mut from)?.expected("an answer on stdout")?;
        let seen = (frame.message, frame.id);
        same("type and id", (response_to(message), id), seen)?;
        let text = String::from_utf8_lossy(&frame.payload).into_owned();
        contains("the answer", "\"Result\":0", &text)?;
    }
    to.shutdown(std::net::Shutdown::Write)?;
    let rest = read_frame(&mut from)?;
    that(rest.is_none(), "the end of stdout", format!("{rest:?}"))?;
    process.wait(LIMIT).map(drop).map_err(Into::into)
}
