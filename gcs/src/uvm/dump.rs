//! DumpStacks (protocol 4.11): what the service is doing, in words. The one stack of a
//! single-threaded loop is always the one that makes the dump, so the state says more.
//!
//! The text always fits its frame: the log is shortened first, then the ends of long lists, and
//! each names how much is missing. Nothing here waits: the kernel stack of a child is read in a
//! task, because that read blocks while the child is in an exec.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::pending::WorkKind;
use super::Uvm;
use crate::bridge::codec::{Reply, STACKS_LIMIT};
use crate::bridge::outbox::Ticket;
use crate::bridge::text::json_length;
use crate::error::Failure;

/// Room of one section, as JSON: the ten that can be long leave some to the log.
const SECTION: usize = 5_000;
/// Descriptors that are looked at; more are only counted.
const LOOKED_AT: usize = 512;

const STACKS: &str = "reading the kernel stacks of tasks";
const STACKS_LIMIT_TIME: Duration = Duration::from_secs(5);

impl Uvm {
    /// Answers with the state of everything that may be waited for, and the last log records.
    pub(super) fn dump(&mut self, ticket: Ticket) {
        let state = self.state();
        let at_work = self
            .pending
            .task_children()
            .filter(|(label, _)| *label != STACKS);
        let pids: Vec<i32> = at_work.map(|(_, pid)| pid.as_raw()).collect();
        if pids.is_empty() {
            let text = finished(state, Vec::new());
            return self.outbox.answer(ticket, Ok(Reply::Stacks(text)));
        }
        self.run(
            STACKS,
            STACKS_LIMIT_TIME,
            move || Ok(pids.into_iter().filter_map(kernel_stack).collect()),
            move |uvm, stacks: Result<Vec<String>, Failure>| {
                let stacks = stacks.unwrap_or_else(|failure| vec![failure.message]);
                let text = finished(state, stacks);
                uvm.outbox.answer(ticket, Ok(Reply::Stacks(text)));
            },
        );
    }

    fn state(&self) -> StateText {
        let requests = self.outbox.pending();
        let pending = |kind| self.pending.describe(kind);
        let before = [
            section("bridge", [self.session.describe(), self.outbox.describe()]),
            section(
                "pending requests",
                requests.map(|(id, seq, age)| format!("{id} {seq} for {age:.1?}")),
            ),
            section("containers", self.containers.describe(&self.processes)),
            section("devices waited for", pending(WorkKind::Arrival)),
            section("mounts", self.mounts.describe()),
            section("network namespaces", self.namespaces.describe()),
            section("lent addresses", self.leases.describe()),
            section("processes", self.processes.describe()),
            section("tasks", pending(WorkKind::Task)),
            section("deadlines", self.pending.describe_deadlines()),
        ];
        let (open, kinds) = descriptors();
        let (children, unclaimed) = self.children.counts();
        let counts = [
            format!("watched descriptors {}", self.poller.len()),
            format!("open descriptors {open}"),
            format!("deadlines {}", self.pending.deadlines()),
            format!("dials {}", self.pending.count(WorkKind::Dial)),
            format!("mapped directories {}", self.shares.len()),
            format!(
                "starting programs {}",
                self.pending.count(WorkKind::Program)
            ),
            format!(
                "outputs left behind {}",
                self.pending.count(WorkKind::LeftOutput)
            ),
            format!("children {children}"),
            format!("unclaimed exits {unclaimed}"),
        ];
        StateText {
            before: before.concat(),
            after: section("open descriptors", kinds)
                + &section("clock", [self.machine.describe_clock()])
                + &section("counts", counts),
        }
    }
}

/// The text around the stacks, which come later.
struct StateText {
    before: String,
    after: String,
}

/// The whole text, with as much of the log as fits.
fn finished(state: StateText, stacks: Vec<String>) -> String {
    let mut dump = state.before;
    dump += &section("kernel stacks of tasks", stacks);
    dump += &state.after;
    let room = STACKS_LIMIT.saturating_sub(json_length(&dump) + NOTE);
    let log = crate::log::recent(room);
    let text = newest(&log, room);
    let (kept, all) = (text.lines().count(), crate::log::kept());
    dump += &if kept == all {
        format!("last log records ({all})\n")
    } else {
        format!("last log records ({kept} of {all}, older ones are cut)\n")
    };
    dump += text;
    dump
}

/// Room for the line above the log.
const NOTE: usize = 100;

/// The last lines of `log` that fit as JSON.
fn newest(log: &str, room: usize) -> &str {
    let (mut used, mut from) = (0, log.len());
    for line in log.split_inclusive('\n').rev() {
        used += json_length(line);
        if used > room {
            break;
        }
        from -= line.len();
    }
    &log[from..]
}

/// A title with the number of lines, and the lines that fit.
fn section(title: &str, lines: impl IntoIterator<Item = String>) -> String {
    let mut text = String::new();
    let (mut count, mut told, mut used) = (0_usize, 0_usize, 0);
    for line in lines {
        count += 1;
        used += json_length(&line) + 4;
        if used <= SECTION {
            told += 1;
            text += &format!("  {line}\n");
        }
    }
    if told < count {
        text += &format!("  ... and {} more\n", count - told);
    }
    format!("{title} ({count})\n{text}")
}

fn kernel_stack(pid: i32) -> Option<String> {
    let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let place = read("stack").filter(|text| !text.is_empty());
    let place = place.or_else(|| read("wchan"))?;
    Some(format!("{pid}: {}", place.trim_end().replace('\n', " < ")))
}

/// How many descriptors are open, and how many of which kind.
fn descriptors() -> (usize, Vec<String>) {
    let mut kinds = BTreeMap::<String, usize>::new();
    let mut count = 0;
    for entry in std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        count += 1;
        if count <= LOOKED_AT {
            *kinds.entry(kind(&entry.path())).or_default() += 1;
        }
    }
    let lines = kinds
        .into_iter()
        .map(|(kind, count)| format!("{kind} {count}"));
    (count, lines.collect())
}

/// `socket`, `pipe` and the like without their numbers; files by their path.
fn kind(link: &Path) -> String {
    let target = std::fs::read_link(link).unwrap_or_default();
    let target = target.to_string_lossy();
    match target.split_once(":[") {
        Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
        _ => target.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gives_way_first_and_says_so() {
        let log = "first \"quoted\"\nsecond\nthird\n";
        assert_eq!(newest(log, 100), log);
        assert_eq!(newest(log, 15), "second\nthird\n");
        assert_eq!(newest(log, 7), "third\n");
        assert_eq!(newest(log, 6), "");
        assert_eq!(newest("", 6), "");
    }

    #[test]
    fn a_long_list_says_how_much_is_missing() {
        assert_eq!(section("few", ["a".to_owned()]), "few (1)\n  a\n");
        let text = section("many", (0..1000).map(|n| format!("\"{n:0>50}\"")));
        assert!(text.starts_with("many (1000)\n"), "{text}");
        let told = text.lines().count() - 2;
        assert!(told > SECTION / 80, "{text}");
        assert!(
            text.ends_with(&format!("... and {} more\n", 1000 - told)),
            "{text}"
        );
        assert!(json_length(&text) < SECTION + 100);
    }
}
