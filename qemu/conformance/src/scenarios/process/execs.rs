//! First and further processes of containers: what they are started with.

use serde_json::json;

use super::{any_refusal, ended, everywhere, exec_args, ready, rest};
use crate::{codes, contains, refused, same, that, AnswerIs, Checked, Expected, Lab, LIMIT};

pub fn init_by_spec(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("echo $0 $A; pwd").edit(|spec| {
        spec["process"]["env"] = json!(["PATH=/bin", "A=of-the-spec"]);
        spec["process"]["cwd"] = "/tmp".into();
    });
    let container = container.create()?;
    let init = container
        .init()
        .parameter("CommandArgs", json!(["/bin/false"]))
        .parameter("CommandLine", "/bin/false".into())
        .parameter("WorkingDirectory", "/bin".into())
        .parameter("Environment", json!({"A": "of-the-request"}));
    let out = init.run()?;
    let seen = (out.code, out.text());
    same(
        "exit code and output",
        (0, "/bin/sh of-the-spec\n/tmp\n".to_owned()),
        seen,
    )?;
    container.remove()
}

pub fn second_start(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("echo ready; cat; exit 5").create()?;
    let mut init = container.init().open_stdin().start()?;
    ready(&mut init)?;
    any_refusal(container.init().start(), "a second start")?;
    let mut stdin = init.stdio.stdin.take().expected("a connection")?;
    std::io::Write::write_all(&mut stdin, b"still here\n")?;
    drop(stdin);
    let mut stdout = init.stdio.stdout.take().expected("a connection")?;
    same(
        "output after it",
        "still here\n",
        rest(&mut stdout)?.as_str(),
    )?;
    drop(stdout);
    ended(&mut init, "exit code", 5)?;
    any_refusal(container.init().start(), "a start after the exit")?;
    container.remove()
}

pub fn limits_of_the_container(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let limit =
        |soft: u64, hard: u64| json!([{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}]);
    let container = vm.container("sleep 1000");
    let container = container.edit(|spec| spec["process"]["rlimits"] = limit(123, 456));
    let container = container.create()?;
    let _init = container.start()?;
    let exec = container.exec_with("ulimit -Sn; ulimit -Hn", |process| {
        process["rlimits"] = limit(77, 99);
    });
    same(
        "limits of open files",
        "123\n456\n",
        exec.run()?.text().as_str(),
    )?;
    container.remove()
}

pub fn users(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let make = |user: serde_json::Value| -> Checked<_> {
        let plan = vm
            .container("sleep 1000")
            .edit(|spec| spec["process"]["user"] = user);
        let mounted = plan.mount()?;
        let etc = format!("{}/etc", uvm::container::root(mounted.plan().id()));
        let passwd = "web:x:33:34::/:/bin/sh\\nother:x:44:45::/:/bin/sh\\n";
        vm.sh(&format!("mkdir -p {etc}; printf '{passwd}' > {etc}/passwd"))?;
        let container = mounted.create()?;
        let init = container.start()?;
        Ok((container, init))
    };
    // User of the container's spec, of the exec, and what the exec runs as.
    let named = json!({"uid": 33, "gid": 34, "username": "web"});
    let plain = json!({"uid": 0, "gid": 0});
    let cases = [
        (
            named.clone(),
            json!({"uid": 0, "gid": 0, "username": "other"}),
            "44:45",
        ),
        (named, json!({"uid": 0, "gid": 0}), "33:34"),
        (plain.clone(), json!({"uid": 55, "gid": 56}), "55:56"),
        (
            plain,
            json!({"uid": 0, "gid": 0, "username": "web"}),
            "33:34",
        ),
    ];
    for (of_spec, of_exec, wanted) in cases {
        let what = format!("user of {of_exec} in a container of {of_spec}");
        let (container, _init) = make(of_spec)?;
        let exec = container.exec_with("echo $(id -u):$(id -g)", |process| {
            process["user"] = of_exec;
        });
        same(&what, format!("{wanted}\n"), exec.run()?.text())?;
        container.remove()?;
    }
    let (container, _init) = make(json!({"uid": 0, "gid": 0}))?;
    let unknown = container.exec_with("true", |process| {
        process["user"] = json!({"username": "nobody-here"});
    });
    any_refusal(unknown.start(), "a user that passwd does not have")?;
    container.remove()
}

pub fn exact_environment(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("sleep 1000");
    let container = container.edit(|spec| spec["process"]["env"] = json!(["PATH=/bin", "OF=spec"]));
    let container = container.create()?;
    let _init = container.start()?;
    let exec = container.exec_with("", |process| {
        process["args"] = json!(["/bin/busybox", "env"]);
        process["env"] = json!(["A=b", "C=d e"]);
    });
    let text = exec.run()?.text();
    // Runtimes add HOME where there is none.
    let seen: Vec<&str> = text.lines().filter(|l| !l.starts_with("HOME=")).collect();
    same("environment", vec!["A=b", "C=d e"], seen)?;
    container.remove()
}

pub fn missing_program(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    for program in ["/no/such/program", "no-such-program"] {
        let ports = [vm.open_stream()?, vm.open_stream()?, vm.open_stream()?];
        let parameters = super::oci_process(&[program]);
        let answer = super::execute(&vm, container.id(), parameters, ports.map(Some))?;
        answer.is(codes::FAIL)?;
        contains("the error's text", program, &answer.text())?;
        for port in ports {
            let mut stream = vm.take_stream(port, LIMIT)?;
            same("output of no process", "", rest(&mut stream)?.as_str())?;
        }
    }
    same("the next process", "on", container.sh("echo on")?.as_str())?;
    container.remove()
}

pub fn exited_container(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("exit 3").create()?;
    same("exit code", 3, container.init().run()?.code)?;
    any_refusal(
        container.exec("true").start(),
        "a process in an exited container",
    )?;
    container.remove()
}

pub fn many_at_once(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    let runs: Vec<_> = (0..20_u32)
        .map(|n| container.exec(&format!("echo process {n}; exit {n}")))
        .map(|launch| std::thread::spawn(move || launch.run()))
        .collect();
    for (n, run) in (0..).zip(runs) {
        let out = run.join().map_err(|_| crate::fail("an end", "a panic"))??;
        let seen = (out.code, out.text());
        same("exit code and output", (n, format!("process {n}\n")), seen)?;
    }
    container.remove()
}

pub fn default_signals(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let args = ["grep", "^Sig[BIC]", "/proc/self/status"];
    for (what, text) in everywhere(&vm, &args)? {
        let masks: Vec<(&str, u64)> = text
            .lines()
            .filter_map(|line| line.split_once(":\t"))
            .filter_map(|(name, mask)| Some((name, u64::from_str_radix(mask, 16).ok()?)))
            .collect();
        let wanted = vec![("SigBlk", 0), ("SigIgn", 0), ("SigCgt", 0)];
        same(&format!("signals of {what}"), wanted, masks)?;
    }
    Ok(())
}

pub fn three_descriptors(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    // The fourth is the directory that is listed.
    for (what, text) in everywhere(&vm, &["ls", "/proc/self/fd"])? {
        same(
            &format!("descriptors of {what}"),
            "0\n1\n2\n3\n",
            text.as_str(),
        )?;
    }
    let container = vm.container("").edit(|spec| {
        spec["process"]["terminal"] = true.into();
        spec["process"]["args"] = json!(["/bin/ls", "-1", "/proc/self/fd"]);
    });
    let container = container.create()?;
    let out = container.init().without_stderr().run()?;
    let text = out.text().replace('\r', "");
    same("descriptors with a terminal", "0\n1\n2\n3\n", text.as_str())?;
    container.remove()?;
    let container = vm.container("sleep 1000").create()?;
    let _init = container.start()?;
    let out = exec_args(&container, &["/bin/ls", "-1", "/proc/self/fd"]);
    let out = out.without_stdout();
    let silent = out.run()?;
    that(
        silent.code == 0,
        "success without stdout",
        silent.error_text(),
    )?;
    refused(
        vm.exec(container.id(), &json!({"args": []})).start(),
        codes::FAIL,
    )?;
    container.remove()
}
