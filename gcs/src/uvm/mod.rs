//! The state of the utility VM and the one place that changes it.
//!
//! Events come in (a request, a readable descriptor, a deadline, an ended child), state changes,
//! replies go to the outbox. Nothing here waits: what takes time is a task, a dial or a started
//! program, each with a deadline and with the code that goes on when it is through.

mod arrivals;
mod constraints;
mod container;
mod create;
mod delete;
mod dials;
mod dump;
mod execute;
mod log_channel;
mod machine;
mod modify;
mod namespaces;
mod network;
mod policy;
mod process;
mod programs;
mod properties;
mod requests;
mod session;
mod shutdown;
mod streams;
mod tasks;
mod tenancies;
mod v1;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::time::Instant;

use nix::unistd::Pid;

use crate::bridge::outbox::Outbox;
use crate::config::Stance;
use crate::memory;
use crate::net::tenancy::Act;
use crate::reactor::{Poller, Timers};
use crate::stdio::StreamKind;
use crate::storage::MountTable;
use crate::sys::process::ExitStatus;
use crate::task;
use crate::transport::Dialer;

use container::Container;
use log_channel::LogChannel;
use namespaces::Namespaces;
use policy::Policy;
use process::Process;
use session::{Redial, Session};

/// Names a record for its lifetime; never repeats.
pub type Key = u64;

/// What an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Children,
    Bridge,
    BridgeOut,
    Log,
    Kmsg,
    Uevents,
    Task(Key),
    Dial(Key),
    Program(Key),
    Stream(Key, StreamKind),
}

/// What a deadline belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    Task(Key),
    Dial(Key),
    /// A program that was forked but has not been executed yet.
    Program(Key),
    /// A process's terminal may have been opened again.
    Terminal(Key),
    /// An exit of this init that nobody waited for.
    Notification(Key),
    /// A disk should have come.
    Arrival(Key),
    /// The server of a mapped directory is silent.
    Share(Key),
    /// A WaitForProcess with a time-out: process and waiter.
    Waiter(Key, Key),
    /// The killed init of a container that is being deleted should have ended.
    Deletion(Key),
    /// The bridge is to be dialled again.
    Redial,
    /// The host's clock is to be looked at.
    Clock,
    /// The memory of the groups is to be looked at.
    Memory,
    /// Something is to be done about a lent address.
    Tenancy(Key, Act),
    /// The log's connection is to be dialled.
    LogDial,
}

/// Whose exit a pid's exit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Child {
    Task(Key),
    Program(Key),
    Process(Key),
}

/// Why the service ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The host asked the utility VM to power off (protocol section 6.9).
    PowerOff,
    /// The bridge is gone and cannot be dialled again: it was given (`-use-inouterr`).
    BridgeLost,
    /// So it was given, and the host sent a header that cannot be one (P-008, P-009).
    BadFraming,
}

/// Exits of processes not yet known: the container engine reports a pid after making it. Orphans
/// of containers come here too, any number of them.
const UNCLAIMED_EXITS: usize = 4096;

/// What the flags say of how the host is served.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What is done with requests until the host sets a security policy.
    pub stance: Stance,
    /// A first Create is refused, as the retired protocol is (`-v4`).
    pub v4_only: bool,
    /// Port of the host that the log goes to: dialled when the log has no connection.
    pub log_port: Option<u32>,
    /// Programs of the utility VM may dump core: a place for it was named
    /// (`-core-dump-location`). Those of containers may when their specs say so.
    pub dumps_core: bool,
}

/// Everything the service knows.
pub struct Uvm {
    pub poller: Poller<Source>,
    pub timers: Timers<Deadline>,
    pub outbox: Outbox,
    pub end: Option<End>,
    /// Frames and bytes from the host, for the state dump.
    received: (u64, u64),
    dialer: Dialer,
    session: Session,
    settings: Settings,
    redial: Redial,
    log_channel: LogChannel,
    next_key: Key,
    children: HashMap<Pid, Child>,
    unclaimed: VecDeque<(Pid, ExitStatus)>,
    tasks: HashMap<Key, tasks::Task>,
    /// Of [`task::BUFFER`] bytes.
    scratch: Vec<u8>,
    dials: HashMap<Key, dials::PendingDial>,
    programs: HashMap<Key, programs::Starting>,
    processes: BTreeMap<Key, Process>,
    /// Processes of the utility VM itself, by pid.
    externals: BTreeMap<u32, Key>,
    containers: BTreeMap<String, Container>,
    mounts: MountTable,
    events: arrivals::Events,
    arrivals: HashMap<Key, arrivals::Arrival>,
    /// Connections to the servers of mapped directories, as long as those are mounted.
    shares: HashMap<Key, modify::Share>,
    namespaces: Namespaces,
    /// Addresses that DHCP servers have lent to containers.
    tenancies: BTreeMap<Key, tenancies::Kept>,
    policy: Policy,
    clock: Option<machine::Kept>,
    memory: Option<memory::Watch>,
}

impl Uvm {
    /// # Errors
    /// The kernel refuses the loop's descriptors.
    pub fn new(dialer: Dialer, settings: Settings) -> io::Result<Self> {
        let policy = Policy::new(settings.stance);
        crate::log::mute(policy.permit(policy::Act::LogOutput).is_err());
        Ok(Self {
            poller: Poller::new()?,
            timers: Timers::default(),
            outbox: Outbox::default(),
            end: None,
            received: (0, 0),
            dialer,
            session: Session::default(),
            settings,
            redial: Redial::default(),
            log_channel: LogChannel::new(settings.log_port),
            next_key: 1,
            children: HashMap::new(),
            unclaimed: VecDeque::new(),
            tasks: HashMap::new(),
            scratch: vec![0; task::BUFFER],
            dials: HashMap::new(),
            programs: HashMap::new(),
            processes: BTreeMap::new(),
            externals: BTreeMap::new(),
            containers: BTreeMap::new(),
            mounts: MountTable::default(),
            events: arrivals::Events::default(),
            arrivals: HashMap::new(),
            shares: HashMap::new(),
            namespaces: Namespaces::default(),
            tenancies: BTreeMap::new(),
            policy,
            clock: None,
            memory: None,
        })
    }

    fn key(&mut self) -> Key {
        self.next_key += 1;
        self.next_key
    }

    /// A descriptor of one of the host's records became ready.
    pub fn on_ready(&mut self, source: Source) {
        match source {
            Source::Uevents => self.events_ready(),
            Source::Task(key) => self.task_ready(key),
            Source::Dial(key) => self.dial_ready(key),
            Source::Program(key) => self.program_ready(key),
            Source::Stream(key, kind) => self.stream_ready(key, kind),
            // The loop's own: see `service`.
            Source::Children | Source::Bridge | Source::BridgeOut | Source::Log | Source::Kmsg => {}
        }
    }

    /// Acts on every deadline that has come.
    pub fn on_time(&mut self, now: Instant) {
        while let Some(deadline) = self.timers.pop_due(now) {
            match deadline {
                Deadline::Task(key) => self.task_overdue(key),
                Deadline::Dial(key) => self.dial_due(key),
                Deadline::Program(key) => self.program_overdue(key),
                Deadline::Terminal(key) => self.terminal_due(key),
                Deadline::Notification(key) => self.notification_due(key),
                Deadline::Arrival(key) => self.arrival_due(key),
                Deadline::Share(key) => self.share_overdue(key),
                Deadline::Waiter(key, waiter) => self.waiter_overdue(key, waiter),
                Deadline::Deletion(key) => self.deletion_overdue(key),
                Deadline::Redial => self.redial_due(),
                Deadline::Clock => self.clock_due(),
                Deadline::Memory => self.memory_due(),
                Deadline::Tenancy(key, act) => self.tenancy_due(key, act),
                Deadline::LogDial => self.log_dial_due(),
            }
        }
    }

    /// A child ended. The only caller is the loop's reaper.
    pub fn on_exit(&mut self, pid: Pid, status: ExitStatus) {
        match self.children.remove(&pid) {
            Some(Child::Task(key)) => self.task_exited(key, status),
            Some(Child::Program(key)) => self.program_exited(key, status),
            Some(Child::Process(key)) => self.process_exited(key, status),
            None if self.tasks.is_empty() => {}
            None => {
                if self.unclaimed.len() == UNCLAIMED_EXITS {
                    self.unclaimed.pop_front();
                }
                self.unclaimed.push_back((pid, status));
            }
        }
    }

    /// Puts a child that was just forked on the books: an exit kept under its number is that of
    /// an earlier process.
    fn expect_exit(&mut self, pid: Pid, child: Child) {
        self.unclaimed.retain(|(earlier, _)| *earlier != pid);
        self.children.insert(pid, child);
    }

    /// Takes the exit of `pid` if it came before its pid was known.
    fn claim(&mut self, pid: Pid, child: Child) -> Option<ExitStatus> {
        if let Some(at) = self.unclaimed.iter().position(|(p, _)| *p == pid) {
            return self.unclaimed.remove(at).map(|(_, status)| status);
        }
        // An unreaped process can always be asked for. One that cannot will never be reported:
        // a wrong status is better than a wait without end.
        if process_gone(pid) {
            log::error!("process {pid} ended unseen: its exit status is not known");
            return Some(ExitStatus::Unknown);
        }
        self.children.insert(pid, child);
        None
    }
}

fn process_gone(pid: Pid) -> bool {
    crate::sys::process::kill(pid, 0) == Err(nix::errno::Errno::ESRCH)
}

/// Registrations fail only when the kernel is out of memory; the stream or task is then silent
/// and its deadline ends it, which a log line should explain.
fn note_poll_error(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        log::error!("watching {what}: {error}");
    }
}
