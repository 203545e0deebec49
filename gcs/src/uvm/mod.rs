//! The state of the utility VM and the one place that changes it.
//!
//! Events come in (a request, a readable descriptor, a deadline, an ended child), state changes,
//! replies go to the outbox. Nothing here waits. What takes time is work in the table of `pending`,
//! which has a deadline and the code that goes on after it.

mod arrivals;
mod children;
mod container;
mod containers;
mod create;
mod delete;
mod dials;
mod dump;
mod engine;
mod execute;
mod exits;
mod leases;
mod leftover;
mod log_channel;
mod machine;
mod modify;
mod namespaces;
mod pending;
mod policy;
mod processes;
mod programs;
mod properties;
mod requests;
mod session;
mod shutdown;
mod starting;
mod streams;
mod tasks;
mod v1;

use std::io;
use std::time::Instant;

use nix::unistd::Pid;

use crate::bridge::outbox::Outbox;
use crate::config::Stance;
use crate::reactor::Poller;
use crate::stdio::StreamKind;
use crate::storage::MountTable;
use crate::sys::process::ExitStatus;
use crate::transport::Dialer;

use children::{Children, Owner};
use containers::Containers;
use engine::Engine;
use leases::Leases;
use log_channel::LogChannel;
use machine::Machine;
use modify::Shares;
use namespaces::Namespaces;
use pending::{Pending, Wake, WorkKey};
use policy::Policy;
use processes::{ProcessKey, Processes};
use session::Session;

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Readiness {
    Children,
    Bridge,
    BridgeOut,
    Log,
    Kmsg,
    /// Events of devices.
    Devices,
    Work(WorkKey),
    Stream(ProcessKey, StreamKind),
}

/// Why the service ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The host asked the utility VM to power off (protocol section 6.9).
    PowerOff,
    /// The bridge is lost and cannot be dialled again, because it was stdin and stdout
    /// (`-use-inouterr`).
    BridgeLost,
    /// The host sent a header that cannot be one (P-008, P-009), on such a bridge.
    BadFraming,
}

/// The flags that decide how the host is served.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether requests are permitted before the host sets a security policy.
    pub stance: Stance,
    /// The retired protocol is off, so a first Create is refused (`-v4`).
    pub v4_only: bool,
    /// The port of the host that takes the log. It is dialled when the log has no connection.
    pub log_port: Option<u32>,
    /// VM processes may dump core, because the host has named a place (`-core-dump-location`). For
    /// processes of containers their spec decides.
    pub dumps_core: bool,
}

/// Everything the service knows. Each part has one owner; work that needs several of them is a
/// method here, and work that needs one is a method of that one.
pub struct Uvm {
    pub poller: Poller<Readiness>,
    pub outbox: Outbox,
    pub end: Option<End>,
    settings: Settings,
    dialer: Dialer,
    session: Session,
    log_channel: LogChannel,
    pending: Pending,
    children: Children,
    processes: Processes,
    containers: Containers,
    mounts: MountTable,
    shares: Shares,
    namespaces: Namespaces,
    leases: Leases,
    policy: Policy,
    machine: Machine,
    engine: Engine,
}

impl Uvm {
    /// # Errors
    /// The kernel refuses to make the loop's descriptors.
    pub fn new(dialer: Dialer, settings: Settings) -> io::Result<Self> {
        let policy = Policy::new(settings.stance);
        crate::log::mute(policy.permit(policy::Act::LogOutput).is_err());
        Ok(Self {
            poller: Poller::new()?,
            outbox: Outbox::default(),
            end: None,
            settings,
            dialer,
            session: Session::new(settings.v4_only),
            log_channel: LogChannel::new(settings.log_port),
            pending: Pending::default(),
            children: Children::default(),
            processes: Processes::default(),
            containers: Containers::default(),
            mounts: MountTable::default(),
            shares: Shares::default(),
            namespaces: Namespaces::default(),
            leases: Leases::default(),
            policy,
            machine: Machine::default(),
            engine: Engine::default(),
        })
    }

    /// When [`Uvm::on_time`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.pending.next_deadline()
    }

    /// A descriptor became ready.
    pub fn on_ready(&mut self, what: Readiness) {
        match what {
            Readiness::Devices => self.devices_ready(),
            Readiness::Work(key) => self.wake(key, Wake::Ready),
            Readiness::Stream(key, kind) => self.stream_ready(key, kind),
            // The loop's own: see `service`.
            Readiness::Children
            | Readiness::Bridge
            | Readiness::BridgeOut
            | Readiness::Log
            | Readiness::Kmsg => {}
        }
    }

    /// Acts on every deadline that has come.
    pub fn on_time(&mut self, now: Instant) {
        while let Some(key) = self.pending.pop_due(now) {
            self.wake(key, Wake::Due);
        }
    }

    /// A child ended. The only caller is the loop's reaper.
    pub fn on_exit(&mut self, pid: Pid, status: ExitStatus) {
        match self.children.exited(pid, status) {
            Some(Owner::Work(key)) => self.wake(key, Wake::Exited(status)),
            Some(Owner::Process(key)) => self.process_exited(key, status),
            None => {}
        }
    }
}

/// A registration fails only when the kernel is out of memory. The stream or task then gets no
/// events until its deadline ends it, and this line in the log explains why.
fn note_poll_error(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        log::error!("watching {what}: {error}");
    }
}
