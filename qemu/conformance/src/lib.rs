//! `uvm conformance`: the checklist of the protocol as scenarios against any LCOW kernel and
//! initrd.
//!
//! ```text
//! checklist (every line) ─┬─ scenarios/*.rs: SCENARIOS, or NOT_RUN with the reason
//! select (--filter) ──────┴→ run: N workers, each with a Lab → outcomes in order → report
//! lab    one shared VM a worker, or fresh ones → guest: shell, raw frames, containers
//! ```
//!
//! # Writing a scenario
//!
//! A scenario is a function and a row in its area's `SCENARIOS`:
//!
//! ```ignore
//! (190, |lab| {
//!     let vm = lab.guest()?;                    // shared, negotiated, strict; a `Uvm` and a `Host`
//!     for code in [0, 1, 42, 255] {
//!         let out = vm.container(&format!("exit {code}")).run()?;
//!         same("exit code", code, out.code)?;   // expected first, then seen
//!     }
//!     Ok(())
//! }),
//! ```
//!
//! * `lab.guest()?` is shared with other scenarios of the worker and is thrown away after a fail.
//!   What changes the VM for others, ends it, or needs other flags, options, disks or NICs boots
//!   its own: `lab.boot(|b| b.profile.service_flags.push("-scrub-logs".into()))?`. It is killed
//!   when dropped. `lab.try_boot` is for VMs that may not come up. `lab.tools_initrd(false)?` is the
//!   initrd with a busybox ([`BUSYBOX`]), `lab.root_disk()?` the initrd as a disk.
//! * Inside: `vm.sh("script")?` gives what a script said that must succeed; `vm.shell("script")?`
//!   is a [`Launch`](uvm_host::Launch) with streams and exit code. Nothing is needed of the guest
//!   for it: busybox comes on a disk of its own, mounted at [`TOOLS`]. Scratch places are below
//!   [`PLACE`]; names by `vm.fresh("name")`.
//! * Containers: `vm.container("script")` → `.edit(|spec| …)` → `.create()?` → `.init()`,
//!   `.exec("script")`, `.sh("script")?`, `.remove()?`. `.try_create()?` gives Create's own result
//!   for `refused(result, codes::FAIL)?`. `.mount()?` alone leaves Create to the scenario. Dropping
//!   a container cleans up.
//! * Pods: `vm.sandbox("script")?` is the plan of one with a network namespace of its own,
//!   `vm.workload(sandbox.id(), "script")` of a container in it; `join(plan, pid)` has it share the
//!   namespaces of the running sandbox.
//! * Frames: `vm.ask(type, bytes)?` and `vm.ask_json(rpc, &json!({…}))?` send exactly that and
//!   give the [`Answer`](uvm_host::Answer) (`.is(code)?`, `.members`, `.payload`);
//!   `vm.send(…)`, `vm.expect(…)` and `vm.send_bytes(…)` are the parts; `vm.register(id)` before a
//!   Create by hand.
//! * `?` on any error is a fail ("expected success"); `.expected("what")?` says it better. `that`,
//!   `same`, `contains`, `refused` compare. `Err(not_run("why"))` when this machine lacks what it
//!   needs. A breach of strict mode, the end of the shared VM and a panic are fails too.
//! * Independent: own ids and paths, nothing left over, no sleeping for a time where an event can
//!   be waited for. After 240 s its VMs are killed.

mod check;
mod checklist;
mod container;
mod guest;
mod images;
mod lab;
mod pod;
mod report;
mod run;
mod scenarios;
mod select;
mod witness;

pub use check::{
    codes, contains, fail, not_run, refused, same, that, AnswerIs, Checked, Expected, Stop,
};
pub use checklist::{lines, name, Level, Line};
pub use container::{Container, Mounted, Plan};
pub use guest::{Guest, LIMIT, PLACE, TOOLS};
pub use images::BUSYBOX;
pub use lab::{Boot, Lab, Supplies, Watch};
pub use pod::{join, join_also, SANDBOX, SANDBOX_ID, TYPE};
pub use report::{Outcome, Report, Verdict};
pub use run::{lab, run, ConformanceError, Order};
pub use select::{Selection, SelectionError};

/// Proves one line of the checklist, or says what is wrong.
pub type Scenario = fn(&mut Lab) -> Checked;

/// What one area of the checklist has.
pub struct Area {
    pub name: &'static str,
    /// By the number of the line.
    pub scenarios: &'static [(u16, Scenario)],
    /// Lines that cannot be shown here, and why.
    pub not_run: &'static [(&'static [u16], &'static str)],
}

/// What is to be done for a line.
pub enum Task {
    Run(Scenario),
    Skip(&'static str),
}

/// The task of a line and its area. Every line has one (a test sees to it).
pub fn task(id: u16) -> (Task, &'static str) {
    for area in scenarios::AREAS {
        if let Some((_, run)) = area.scenarios.iter().find(|(of, _)| *of == id) {
            return (Task::Run(*run), area.name);
        }
        if let Some((_, why)) = area.not_run.iter().find(|(of, _)| of.contains(&id)) {
            return (Task::Skip(why), area.name);
        }
    }
    (Task::Skip("there is no scenario"), "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_line_has_one_scenario_or_one_reason() {
        let wanted: Vec<u16> = lines().map(|line| line.id).collect();
        let mut given: Vec<u16> = Vec::new();
        for area in scenarios::AREAS {
            given.extend(area.scenarios.iter().map(|(id, _)| *id));
            for (ids, why) in area.not_run {
                assert!(!why.is_empty());
                given.extend(*ids);
            }
        }
        given.sort_unstable();
        let mut sorted = wanted.clone();
        sorted.sort_unstable();
        assert_eq!(
            given, sorted,
            "a line is missing, twice, or not of the checklist"
        );
        assert_eq!(wanted.len(), 284);
    }

    #[test]
    fn lines_are_unique_and_have_short_titles() {
        let ids: BTreeSet<u16> = lines().map(|line| line.id).collect();
        let titles: BTreeSet<&str> = lines().map(|line| line.title).collect();
        assert_eq!((ids.len(), titles.len()), (284, 284));
        assert!(lines().all(|line| (5..=70).contains(&line.title.len())));
        assert_eq!(lines().filter(|line| line.hyper_v).count(), 4);
    }
}
