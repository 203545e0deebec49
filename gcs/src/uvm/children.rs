//! Who owns a child, and so gets the event of its exit.
//!
//! A child that the service forks has an owner from its fork on. A process of a container is made
//! by the engine, which reports the pid afterwards; by then the process may have ended and been
//! reaped. So the exit of a child without an owner is kept until somebody claims it. It is kept
//! only while a child of the service itself is at work, because only such a child can still report
//! a pid. When the last of them has ended, nobody can claim the kept exits any more, and they are
//! dropped.

use std::collections::{HashMap, VecDeque};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::pending::WorkKey;
use super::processes::ProcessKey;
use crate::sys::process::{self, ExitStatus};

/// Orphans of containers come here too, any number of them.
const UNCLAIMED_MAX: usize = 4096;

/// Who gets the event of a child's exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Work(WorkKey),
    Process(ProcessKey),
}

#[derive(Debug, Default)]
pub struct Children {
    owners: HashMap<Pid, Owner>,
    /// Work whose child may still report a pid.
    at_work: HashMap<WorkKey, Pid>,
    unclaimed: VecDeque<(Pid, ExitStatus)>,
}

impl Children {
    /// A child was just forked for this work. An exit that was kept under the same pid belongs to
    /// an earlier process.
    pub fn begin(&mut self, work: WorkKey, pid: Pid) {
        self.unclaimed.retain(|(earlier, _)| *earlier != pid);
        self.owners.insert(pid, Owner::Work(work));
        self.at_work.insert(work, pid);
    }

    /// The work is over, and so is all that it had to report.
    pub fn end(&mut self, work: WorkKey) {
        if let Some(pid) = self.at_work.remove(&work) {
            // Unless the child has become a process of its own.
            if self.owners.get(&pid) == Some(&Owner::Work(work)) {
                self.owners.remove(&pid);
            }
        }
        if self.at_work.is_empty() {
            self.unclaimed.clear();
        }
    }

    /// A child was reaped. None: it has no owner, or not yet.
    pub fn exited(&mut self, pid: Pid, status: ExitStatus) -> Option<Owner> {
        let owner = self.owners.remove(&pid);
        if owner.is_none() && !self.at_work.is_empty() {
            if self.unclaimed.len() == UNCLAIMED_MAX {
                self.unclaimed.pop_front();
            }
            self.unclaimed.push_back((pid, status));
        }
        owner
    }

    /// The exit of a reported pid, if that has come already.
    pub fn take_unclaimed(&mut self, pid: Pid) -> Option<ExitStatus> {
        let at = self.unclaimed.iter().position(|(p, _)| *p == pid)?;
        self.unclaimed.remove(at).map(|(_, status)| status)
    }

    /// Makes `process` the owner of a reported pid; its exit, if that has come already.
    pub fn claim(&mut self, pid: Pid, process: ProcessKey) -> Option<ExitStatus> {
        if let Some(status) = self.take_unclaimed(pid) {
            return Some(status);
        }
        // A signal reaches a process until it is reaped. The exit of a process that no signal
        // reaches will never come, and a wrong status is better than a wait without end.
        if process::kill(pid, 0) == Err(Errno::ESRCH) {
            log::error!("process {pid} ended unseen: its exit status is not known");
            return Some(ExitStatus::Unknown);
        }
        self.owners.insert(pid, Owner::Process(process));
        None
    }

    /// Nobody needs the exit of this process any more.
    pub fn disown(&mut self, process: ProcessKey) {
        self.owners
            .retain(|_, owner| *owner != Owner::Process(process));
    }

    /// Children with an owner and exits without one, for the state dump.
    pub fn counts(&self) -> (usize, usize) {
        (self.owners.len(), self.unclaimed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: [WorkKey; 2] = [WorkKey::of(1), WorkKey::of(2)];
    const PROCESS: ProcessKey = ProcessKey::of(7);

    /// No process has these pids, because they are above the kernel's largest.
    fn pid(number: i32) -> Pid {
        Pid::from_raw(0x4000_0000 + number)
    }

    fn status(code: u8) -> ExitStatus {
        ExitStatus::Exited(code)
    }

    #[test]
    fn an_exit_that_came_before_the_report_is_claimed_once() {
        let mut children = Children::default();
        children.begin(WORK[0], pid(1));
        assert_eq!(children.exited(pid(5), status(3)), None);
        assert_eq!(
            children.exited(pid(1), status(0)),
            Some(Owner::Work(WORK[0]))
        );
        // Its report is still being read: the child itself is gone, the work is not.
        assert_eq!(children.claim(pid(5), PROCESS), Some(status(3)));
        assert_eq!(children.claim(pid(5), PROCESS), Some(ExitStatus::Unknown));
    }

    #[test]
    fn exits_are_kept_only_while_a_child_may_report_their_pid() {
        let mut children = Children::default();
        children.exited(pid(5), status(1));
        assert_eq!(children.counts(), (0, 0), "nobody is at work");
        for (work, number) in [(WORK[0], 1), (WORK[1], 2)] {
            children.begin(work, pid(number));
        }
        children.exited(pid(5), status(1));
        children.end(WORK[0]);
        assert_eq!(children.counts(), (1, 1), "another is still at work");
        children.end(WORK[1]);
        assert_eq!(children.counts(), (0, 0));
    }

    #[test]
    fn a_number_that_is_used_again_has_no_earlier_exit() {
        let mut children = Children::default();
        children.begin(WORK[0], pid(1));
        children.exited(pid(2), status(9));
        children.begin(WORK[1], pid(2));
        assert_eq!(children.counts(), (2, 0));
        assert_eq!(
            children.exited(pid(2), status(4)),
            Some(Owner::Work(WORK[1]))
        );
    }

    #[test]
    fn a_started_program_keeps_its_owner_when_its_start_is_over() {
        let mut children = Children::default();
        let own = Pid::this();
        children.begin(WORK[0], own);
        assert_eq!(children.claim(own, PROCESS), None);
        children.end(WORK[0]);
        assert_eq!(
            children.exited(own, status(0)),
            Some(Owner::Process(PROCESS))
        );
        assert_eq!(children.claim(own, PROCESS), None);
        children.disown(PROCESS);
        assert_eq!(children.exited(own, status(0)), None);
    }

    #[test]
    fn kept_exits_are_bounded_and_the_oldest_go() {
        let mut children = Children::default();
        children.begin(WORK[0], pid(0));
        let more = 1 + i32::try_from(UNCLAIMED_MAX).expect("a small number");
        for number in 1..=more {
            children.exited(pid(number), status(0));
        }
        assert_eq!(children.counts(), (1, UNCLAIMED_MAX));
        assert_eq!(children.claim(pid(1), PROCESS), Some(ExitStatus::Unknown));
        assert_eq!(children.claim(pid(more), PROCESS), Some(status(0)));
    }
}
