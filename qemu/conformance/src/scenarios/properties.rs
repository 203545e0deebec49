//! Properties, stacks and limits of containers.

use std::time::Instant;

use serde_json::{json, Value};

use super::{Area, Scenario};
use crate::{
    codes, contains, fail, refused, same, that, AnswerIs, Checked, Container, Expected, Guest,
    LIMIT,
};
use uvm_host::wire::Rpc;
use uvm_host::{HostError, UVM_ID};

pub const AREA: Area = Area {
    name: "properties",
    scenarios: SCENARIOS,
    not_run: &[],
};

const LIST: &str = "ProcessList";
const STATISTICS: &str = "Statistics";
const METRICS: &str = "LCOWMetrics";

/// `Properties` of a query as it was sent; null leaves the member out.
fn properties(vm: &Guest, id: &str, query: &Value) -> Result<Value, HostError> {
    let mut body = json!({"Query": query});
    if query.is_null() {
        body = json!({});
    }
    let mut answer = vm.call(Rpc::GetProperties, id, body)?;
    Ok(answer.remove("Properties").unwrap_or_default())
}

fn pids(vm: &Guest, id: &str) -> Checked<Vec<u64>> {
    let properties = vm.properties(id, &[LIST])?;
    let list = properties[LIST].as_array().cloned().unwrap_or_default();
    let pids = list.iter().map(|entry| entry["ProcessId"].as_u64());
    pids.collect::<Option<_>>()
        .expected(format!("a number for each ProcessId in {properties}"))
}

fn metrics(vm: &Guest, id: &str) -> Checked<Value> {
    Ok(vm.properties(id, &[STATISTICS])?[METRICS].take())
}

fn positive(metrics: &Value, pointer: &str) -> Checked<u64> {
    let value = metrics.pointer(pointer).and_then(Value::as_u64);
    value
        .filter(|value| *value > 0)
        .expected(format!("a number above 0 at {pointer} of {metrics}"))
}

/// Every member is a number, except names. None is zero.
fn numbers(path: &str, value: &Value) -> Checked {
    match value {
        Value::Object(members) => members
            .iter()
            .try_for_each(|(name, value)| numbers(&format!("{path}/{name}"), value)),
        Value::Array(values) => {
            that(
                !values.is_empty(),
                format!("no empty list at {path}"),
                "one",
            )?;
            values.iter().try_for_each(|value| numbers(path, value))
        }
        Value::Number(number) => that(
            number.as_u64().is_some_and(|n| n > 0) || path.ends_with("/per_cpu"),
            format!("no member for 0, and whole numbers, at {path}"),
            number,
        ),
        Value::String(text) => {
            let name = path.rsplit('/').next().unwrap_or_default();
            that(
                ["device", "op", "pagesize", "name"].contains(&name) && !text.is_empty(),
                format!("no text at {path}"),
                text,
            )
        }
        other => Err(fail(format!("a number at {path}"), other)),
    }
}

/// ModifySettings ContainerConstraints.
fn constrain(vm: &Guest, id: &str, linux: Value) -> Result<(), HostError> {
    let request = json!({"ResourceType": "ContainerConstraints", "RequestType": "Update",
        "Settings": {"Windows": {}, "Linux": linux}});
    vm.call(Rpc::ModifySettings, id, json!({"Request": request}))
        .map(drop)
}

/// A file of the container's control group, in v1 or v2.
fn limit(vm: &Guest, id: &str, v1: &str, v2: &str) -> Checked<String> {
    let (controller, file) = v1.split_once('/').expected("controller/file")?;
    vm.sh(&format!(
        "cat /sys/fs/cgroup/{controller}/containers/{id}/{file} 2>/dev/null || cat /sys/fs/cgroup/containers/{id}/{v2}"
    ))
}

/// A container that runs until it is removed.
fn running(vm: &Guest) -> Checked<Container<'_>> {
    let container = vm.container("sleep 1000 & wait").create()?;
    container.start()?;
    Ok(container)
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (220, |lab| {
        let vm = lab.guest()?;
        let container = running(&vm)?;
        for query in [
            json!(null),
            json!(""),
            json!("{}"),
            json!(r#"{"PropertyTypes":[]}"#),
            json!(r#"{"PropertyTypes":null}"#),
        ] {
            let seen = properties(&vm, container.id(), &query)?;
            same(
                &format!("Properties of the query {query}"),
                json!("{}"),
                seen,
            )?;
        }
        container.remove()
    }),
    (221, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("sleep 1000 & wait").create()?;
        let created = pids(&vm, container.id())?;
        same("processes before the start", 1, created.len())?;
        let init = container.start()?;
        let exec = container.exec("sleep 1000 & wait").start()?;
        // Both shells and what each forks, once it has.
        let begun = Instant::now();
        loop {
            let seen = pids(&vm, container.id())?;
            for (what, pid) in [("init", init.pid), ("the exec", exec.pid)] {
                let listed = seen.contains(&u64::from(pid));
                that(
                    listed,
                    format!("{what}, pid {pid}, in the list"),
                    format!("{seen:?}"),
                )?;
            }
            if seen.len() == 4 {
                break;
            }
            that(begun.elapsed() < LIMIT, "4 processes", format!("{seen:?}"))?;
        }
        container.remove()
    }),
    (222, |lab| {
        let vm = lab.guest()?;
        let container = running(&vm)?;
        let seen = metrics(&vm, container.id())?;
        positive(&seen, "/cpu/usage/total")?;
        positive(&seen, "/memory/usage/usage")?;
        positive(&seen, "/memory/usage/limit")?;
        positive(&seen, "/memory/hierarchical_memory_limit")?;
        positive(&seen, "/pids/current")?;
        that(
            seen["cpu"]["throttling"].is_object(),
            "cpu.throttling",
            &seen,
        )?;
        numbers("", &seen)?;
        container.remove()
    }),
    (223, |lab| {
        let vm = lab.guest()?;
        let container = running(&vm)?;
        let id = container.id();
        for types in [
            &["Other"][..],
            &["statistics", "PROCESSLIST"],
            &["Memory", "Network"],
        ] {
            let seen = vm.properties(id, types)?;
            same(&format!("Properties for {types:?}"), json!({}), seen)?;
        }
        let mixed = vm.properties(id, &["Other", LIST])?;
        that(mixed[LIST].is_array(), "the type that is known", &mixed)?;
        for query in [
            "{",
            "[]",
            "1",
            r#"{"PropertyTypes":"ProcessList"}"#,
            r#"{"PropertyTypes":[1]}"#,
        ] {
            refused(properties(&vm, id, &json!(query)), codes::INVALID_JSON)?;
        }
        refused(
            properties(&vm, id, &json!({"PropertyTypes": [LIST]})),
            codes::INVALID_JSON,
        )?;
        for types in [LIST, STATISTICS, "Other"] {
            refused(vm.properties(UVM_ID, &[types]), codes::FAIL)?;
        }
        // The query is read before the container is looked for.
        refused(properties(&vm, "nobody", &json!("{")), codes::INVALID_JSON)?;
        refused(vm.properties("nobody", &[STATISTICS]), codes::NOT_FOUND)?;
        container.remove()
    }),
    (224, |lab| {
        let vm = lab.guest()?;
        let container = running(&vm)?;
        for types in [[LIST, STATISTICS], [STATISTICS, LIST]] {
            let both = vm.properties(container.id(), &types)?;
            let list = both[LIST].as_array().map_or(0, Vec::len);
            that(list >= 1, "the list of processes", &both)?;
            positive(&both[METRICS], "/cpu/usage/total")?;
        }
        container.remove()
    }),
    (225, |lab| {
        let vm = lab.guest()?;
        let container = running(&vm)?;
        let begun = Instant::now();
        let before = positive(&metrics(&vm, container.id())?, "/cpu/usage/total")?;
        // The kernel tells the shell's own share in ticks of 10 ms: fields 14 and 15.
        let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; cat /proc/$$/stat";
        let stat = container.sh(script)?;
        let ticks: Vec<u64> = stat
            .split(' ')
            .skip(13)
            .take(2)
            .filter_map(|field| field.parse().ok())
            .collect();
        let ticks = ticks.iter().sum::<u64>();
        that(ticks > 0, "a loop that takes time", &stat)?;
        let after = metrics(&vm, container.id())?;
        let total = positive(&after, "/cpu/usage/total")? - before;
        let least = ticks.saturating_sub(2) * 10_000_000;
        // Of two processors at most, as long as it took.
        let most = 2 * u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        that(
            (least..most).contains(&total),
            format!("{least} to {most} ns after {ticks} ticks of 10 ms"),
            format!("{total} of {after}"),
        )?;
        container.remove()
    }),
    (226, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("exit 3").create()?;
        container.init().run()?;
        container.exited()?;
        match vm.properties(container.id(), &[STATISTICS]) {
            Ok(seen) => that(seen[METRICS].is_object(), "statistics or a refusal", &seen)?,
            Err(HostError::Refused { .. }) => {}
            Err(other) => return Err(fail("statistics or a refusal", other)),
        }
        // No process is left, and that is no error.
        same("processes", 0, pids(&vm, container.id())?.len())?;
        let id = container.id().to_owned();
        container.remove()?;
        refused(vm.properties(&id, &[STATISTICS]), codes::NOT_FOUND).map(drop)
    }),
    (227, |lab| {
        let vm = lab.guest()?;
        // The size is for strict mode to judge.
        for payload in ["{}", "", "no JSON", r#"{"ContainerId":5}"#] {
            let answer = vm.ask(Rpc::DumpStacks as u32, payload)?;
            answer.is(0)?;
            let text = answer.members.get("GuestStacks").and_then(Value::as_str);
            that(
                text.is_some_and(|text| !text.is_empty()),
                "GuestStacks",
                answer.text(),
            )?;
        }
        // Also with much to report: many waiters, and a log full of refusals.
        let container = running(&vm)?;
        let pid = u32::try_from(pids(&vm, container.id())?[0]).expected("a pid of 32 bits")?;
        let waits: Vec<_> = (0..200)
            .map(|_| vm.send_wait(container.id(), pid))
            .collect::<Result<_, _>>()?;
        let long = "n".repeat(200);
        for _ in 0..300 {
            refused(vm.properties(&long, &[LIST]), codes::NOT_FOUND)?;
        }
        that(!vm.dump_stacks()?.is_empty(), "GuestStacks", "none")?;
        container.kill()?;
        for mut wait in waits {
            wait.answer(LIMIT)?.is(0)?;
        }
        container.remove()
    }),
    (274, |lab| {
        let vm = lab.guest()?;
        let container = running(&vm)?;
        let id = container.id();
        let memory = || limit(&vm, id, "memory/memory.limit_in_bytes", "memory.max");
        let quota = || limit(&vm, id, "cpu/cpu.cfs_quota_us", "cpu.max");
        let pids = || limit(&vm, id, "pids/pids.max", "pids.max");
        let v2 = quota()?.contains(' ');
        let cpu = |quota: &str| {
            if v2 {
                format!("{quota} 50000")
            } else {
                quota.to_owned()
            }
        };
        let bytes = 40 << 20;
        // tail keeps all that it is given.
        let hog = || -> Checked<String> {
            let script = "head -c 64000000 /dev/zero | tail -c 64000000 | wc -c";
            Ok(container.exec(script).run()?.text().trim().to_owned())
        };
        same("what went through", "64000000", hog()?.as_str())?;

        constrain(
            &vm,
            id,
            json!({"memory": {"limit": bytes}, "cpu": {"quota": 20000, "period": 50000}}),
        )?;
        same("memory limit", bytes.to_string(), memory()?)?;
        same("cpu quota", cpu("20000"), quota()?)?;
        same(
            "limit in the statistics",
            bytes,
            positive(&metrics(&vm, id)?, "/memory/usage/limit")?,
        )?;
        // What is not given stays, and a document may be empty or missing.
        constrain(&vm, id, json!({"cpu": {"quota": 40000}}))?;
        constrain(&vm, id, json!({}))?;
        constrain(&vm, id, json!(null))?;
        same("memory limit", bytes.to_string(), memory()?)?;
        same("cpu quota", cpu("40000"), quota()?)?;
        constrain(
            &vm,
            id,
            json!({"pids": {"limit": 33}, "cpu": {"shares": 512}}),
        )?;
        same("process limit", "33", pids()?.as_str())?;
        let weight = limit(&vm, id, "cpu/cpu.shares", "cpu.weight")?;
        that(
            if v2 { weight != "100" } else { weight == "512" },
            "half of the usual share",
            weight,
        )?;
        // The limit is real: what went through before does not fit any more.
        same("what went through", "0", hog()?.as_str())?;
        // What the kernel refuses is reported, and the container goes on as it was.
        let why = refused(
            constrain(&vm, id, json!({"cpu": {"cpus": "999"}})),
            codes::FAIL,
        )?;
        contains("the refusal", "cpuset.cpus", &why)?;
        refused(
            constrain(&vm, id, json!({"memory": {"limit": "much"}})),
            codes::INVALID_JSON,
        )?;
        same("cpu quota", cpu("40000"), quota()?)?;
        same(
            "a word of the container",
            "alive",
            container.sh("echo alive")?.as_str(),
        )?;
        container.kill()?;
        refused(
            constrain(&vm, id, json!({"pids": {"limit": 5}})),
            codes::FAIL,
        )?;
        container.remove()
    }),
];
