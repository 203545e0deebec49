//! DumpStacks: what the service is doing, in words. A single-threaded loop has one stack and
//! it is this one, so the state says more.

use super::Host;

impl Host {
    /// The state of everything that may be waited for, and the last log records.
    pub(super) fn dump(&self) -> String {
        let mut text = String::new();
        let mut section = |title: &str, lines: Vec<String>| {
            text += &format!("{title} ({})\n", lines.len());
            for line in lines {
                text += &format!("  {line}\n");
            }
        };
        let pending = self.outbox.pending();
        section(
            "pending requests",
            pending
                .map(|(id, seq, age)| format!("{id} {seq} for {age:?}"))
                .collect(),
        );
        section("containers", self.describe_containers());
        section("processes", self.describe_processes());
        section("tasks", self.describe_tasks());
        section(
            "stacks of tasks",
            self.task_pids().filter_map(kernel_stack).collect(),
        );
        section(
            "counts",
            vec![
                format!("watched descriptors {}", self.poller.len()),
                format!("open descriptors {}", open_descriptors()),
                format!("deadlines {}", self.timers.len()),
                format!("dials {}", self.dials.len()),
                format!("starting programs {}", self.programs.len()),
                format!("children {}", self.children.len()),
                format!("unclaimed exits {}", self.unclaimed.len()),
            ],
        );
        text += &format!("last log records\n{}", crate::log::recent(LOG_BYTES));
        text
    }
}

/// Room for log records, so that the whole fits a frame.
const LOG_BYTES: usize = 40_000;

fn kernel_stack(pid: nix::unistd::Pid) -> Option<String> {
    let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let place = read("stack").or_else(|| read("wchan"))?;
    Some(format!("{pid}: {}", place.trim_end().replace('\n', " < ")))
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
