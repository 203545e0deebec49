//! Processes of the VM itself.

use serde_json::{json, Value};

use super::{any_refusal, read_line, wait};
use crate::{codes, refused, same, that, AnswerIs, Checked, Expected, Lab, LIMIT, PLACE, TOOLS};
use uvm_host::UVM_ID;

/// A pid above the kernel's largest.
const NO_PID: u32 = 0x7fff_fff0;

pub fn by_both_ways(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    vm.tools()?;
    let args = [
        format!("{TOOLS}/bin/busybox"),
        "sh".into(),
        "-c".into(),
        "exit 9".into(),
    ];
    for (id, flag) in [(UVM_ID, false), (UVM_ID, true), ("some-other-id", true)] {
        let parameters = json!({"CommandArgs": args, "CreateInUtilityVM": flag});
        let pid = super::start_unwaited(&vm, id, parameters)?;
        let answer = wait(&vm, UVM_ID, pid, u32::MAX)?;
        answer.is(0)?;
        let seen = answer.members.get("ExitCode").and_then(Value::as_u64);
        same(
            &format!("exit code by id {id:?}, flag {flag}"),
            Some(9),
            seen,
        )?;
    }
    Ok(())
}

pub fn environment_directory_search(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let env = |environment: Value| -> Checked<String> {
        let launch = vm.busybox(&["env"])?;
        Ok(launch.parameter("Environment", environment).run()?.text())
    };
    same(
        "an environment of two",
        "A=b\nC=d e\n",
        env(json!({"A": "b", "C": "d e"}))?.as_str(),
    )?;
    same("an environment of none", "", env(json!({}))?.as_str())?;
    for directory in ["/tmp", "/proc/sys"] {
        let out = vm.busybox(&["pwd"])?.cwd(directory).run()?;
        same("working directory", format!("{directory}\n"), out.text())?;
    }
    any_refusal(
        vm.busybox(&["true"])?.cwd("/no/such").start(),
        "a directory that is not there",
    )?;

    // The wrapper is in every guest's /bin, and executes what it is told.
    let found = vm
        .external(&["vsockexec", &format!("{TOOLS}/bin/busybox"), "true"])
        .parameter("Environment", json!({"PATH": "/nowhere"}));
    same(
        "exit code of what the service's PATH finds",
        0,
        found.limit(LIMIT).run()?.code,
    )?;
    let dir = format!("{PLACE}/{}", vm.fresh("path"));
    let program = format!("{dir}/only-in-the-path-of-the-request");
    vm.sh(&format!(
        "mkdir -p {dir}; touch {program}; mount -o bind {TOOLS}/bin/busybox {program}"
    ))?;
    let by_path = vm.external(&[program.as_str()]).run();
    let by_name = vm.external(&["only-in-the-path-of-the-request"]);
    let by_name = by_name.env("PATH", &dir).start();
    vm.sh(&format!("umount {program}; rm -r {dir}"))?;
    by_path.expected("the program by its path")?;
    any_refusal(by_name, "a program that only Environment would find").map(drop)
}

pub fn command_lines(lab: &mut Lab) -> Checked {
    #[derive(serde::Deserialize)]
    struct Case {
        name: String,
        json: String,
        accepted: bool,
        args: Option<Vec<String>>,
    }
    let cases = include_str!("../../../../../gcs/testdata/command_lines.json");
    let cases: Vec<Case> = serde_json::from_str(cases)?;
    let vm = lab.guest()?;
    let show = format!("{PLACE}/{}", vm.fresh("show"));
    // Every argument, each with a NUL after it.
    vm.sh(&format!(
        "mkdir -p {PLACE}; printf '%s' 'for word; do printf \"%s\\0\" \"$word\"; done' > {show}"
    ))?;
    for case in &cases {
        let name = &case.name;
        let args = case.args.as_deref().unwrap_or_default();
        if !case.accepted || args.is_empty() {
            let outcome = vm.external_line(&case.json).start();
            any_refusal(outcome, &format!("{name}: {:?}", case.json))?;
            continue;
        }
        // Arguments before it do not change how the rest is split.
        let line = format!("{TOOLS}/bin/busybox sh {show} {}", case.json);
        let out = vm.external_line(&line).limit(LIMIT).run()?;
        let wanted: String = args.iter().map(|word| format!("{word}\0")).collect();
        same(
            &format!("{name}: args of {:?}", case.json),
            wanted,
            out.text(),
        )?;
    }
    vm.sh(&format!("rm {show}")).map(drop)
}

pub fn unwanted_are_null(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let script = "stat -L -c %t:%T /proc/$$/fd/0 /proc/$$/fd/2";
    let out = vm.shell(script)?.without_stderr().run()?;
    same(
        "devices of stdin and stderr",
        "1:3\n1:3\n",
        out.text().as_str(),
    )?;
    let script = "stat -L -c %t:%T /proc/$$/fd/1 | cat >&2";
    let out = vm.shell(script)?.without_stdout().run()?;
    same("device of stdout", "1:3\n", out.error_text().as_str())
}

pub fn output_ends(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    for _ in 0..10 {
        let out = vm
            .shell("head -c 300000 /dev/zero; echo end >&2; exit 2")?
            .run()?;
        let seen = (out.code, out.stdout.len(), out.error_text(), out.complete);
        let wanted = (2, 300_000, "end\n".to_owned(), true);
        same("code, bytes, error output and ends of both", wanted, seen)?;
    }
    Ok(())
}

pub fn signalled_and_resized(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let script = "trap 'echo heard' USR1; echo ready; while :; do sleep 0.05; done";
    let mut process = vm.shell(script)?.start()?;
    super::ready(&mut process)?;
    process.signal(10)?;
    let stdout = process.stdio.stdout.as_mut().expected("a connection")?;
    same("output of the trap", "heard", read_line(stdout)?.as_str())?;
    process.signal(9)?;
    let code = process.wait(LIMIT)?;
    // 128 + 9; the reference says -1 (P-217).
    that(code == 137 || code == u32::MAX, "an exit by a signal", code)?;

    let process = vm.shell("sleep 1000")?.terminal().start()?;
    process.resize(33, 44)?;
    process.signal(9)?;
    let plain = vm.shell("sleep 1000")?.start()?;
    refused(plain.resize(33, 44), codes::FAIL)?;
    plain.signal(9)?;
    refused(vm.signal(UVM_ID, NO_PID, 15), codes::NOT_FOUND)?;
    refused(vm.resize(UVM_ID, NO_PID, 1, 1), codes::NOT_FOUND).map(drop)
}
