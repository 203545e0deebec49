//! The side of the process that has the VM: one thread accepts, one per connection serves.
//!
//! What requests share is behind locks of its own ([`Attachments`] one at a time) or of the fake
//! host. Every wait ends with the VM, so [`Server::close`] and `Drop` can join all threads.

use std::collections::HashSet;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::attachments::{Attachments, Passage};
use super::directory::{Directory, Name, Socket};
use super::wire::{Channel, Reply, Request, Status, Stop, WireError};
use super::{exec, ControlError};
use crate::host::log::Record;
use crate::host::{End, HostError, Tail};
use crate::uvm::Uvm;

/// More at once are refused; each costs a thread.
const CONNECTIONS: usize = 64;
/// For the request after the connection.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Mounts come off, disks are synced.
const END_LIMIT: Duration = Duration::from_secs(60);
/// For the log to close behind the VM's end.
const LAST_RECORDS: Duration = Duration::from_secs(5);
/// How often a follower of the log is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// A container of the VM, as its owner knows it.
#[derive(Debug, Clone)]
pub struct Known {
    pub id: String,
    /// `process` of its spec, the pattern of further processes.
    pub process: Value,
    pub passage: Option<Passage>,
}

/// How much somebody wants the VM to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urge {
    /// What runs in it is asked to end.
    Asked,
    /// It had its time.
    Pressed,
}

type OnStop = Box<dyn Fn(Urge) -> Result<(), HostError> + Send + Sync>;

/// What connections share.
pub(super) struct Owner {
    name: Name,
    command: &'static str,
    pub(super) vm: Arc<Uvm>,
    containers: Vec<Known>,
    attachments: Mutex<Attachments>,
    on_stop: OnStop,
    started: Instant,
    closing: AtomicBool,
}

#[derive(Default)]
struct Connections {
    open: Vec<(JoinHandle<()>, UnixStream)>,
}

/// Serves requests until it is dropped, and then kills the VM; in good order, [`Server::close`]
/// and a power-off come before that.
pub struct Server {
    owner: Arc<Owner>,
    listener: UnixListener,
    socket: Option<Socket>,
    connections: Arc<Mutex<Connections>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `vm` under a name in `directory`. `on_stop` makes what runs in it end, upon which its owner ends
    /// the VM.
    pub fn start(
        directory: &Directory,
        name: Name,
        command: &'static str,
        vm: Arc<Uvm>,
        containers: Vec<Known>,
        on_stop: impl Fn(Urge) -> Result<(), HostError> + Send + Sync + 'static,
    ) -> Result<Self, ControlError> {
        let socket = directory.listen(&name)?;
        let owner = Arc::new(Owner {
            name,
            command,
            started: vm.vm().started(),
            vm,
            containers,
            attachments: Mutex::default(),
            on_stop: Box::new(on_stop),
            closing: AtomicBool::new(false),
        });
        let failed = |source| ControlError::Io {
            name: owner.name.to_string(),
            source,
        };
        let listener = socket.listener.try_clone().map_err(failed)?;
        let accepting = socket.listener.try_clone().map_err(failed)?;
        let connections = Arc::<Mutex<Connections>>::default();
        let (shared, all) = (Arc::clone(&owner), Arc::clone(&connections));
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept_all(&accepting, &shared, &all))
            .map_err(failed)?;
        Ok(Self {
            owner,
            listener,
            socket: Some(socket),
            connections,
            thread: Some(thread),
        })
    }

    pub fn name(&self) -> &Name {
        &self.owner.name
    }

    /// Takes no more requests, and undoes the attachments, so that what was written to them is
    /// there. Connections that wait for the VM's end go on waiting.
    pub fn close(&mut self) {
        self.stop_accepting();
        self.owner.attachments().detach_all(&self.owner.vm);
    }

    fn stop_accepting(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.owner.closing.store(true, Ordering::SeqCst);
        // The name is free from here on.
        self.socket = None;
        // Wakes the thread with an error.
        match rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both) {
            Ok(()) => drop(thread.join()),
            Err(e) => log::error!("closing the control socket: {e}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_accepting();
        // What waits for the guest or for QEMU must not any more.
        self.owner.vm.vm().kill();
        self.owner.vm.end(End::Stopped);
        let open = std::mem::take(&mut lock(&self.connections).open);
        for (thread, stream) in open {
            drop(stream.shutdown(Shutdown::Read));
            drop(thread.join());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain lists, whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept_all(listener: &UnixListener, owner: &Arc<Owner>, connections: &Mutex<Connections>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if owner.closing.load(Ordering::SeqCst) => return,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                // Out of descriptors, perhaps for a while.
                log::error!("the control socket: {e}");
                std::thread::sleep(LOOK);
                continue;
            }
        };
        let mut connections = lock(connections);
        connections.open.retain(|(thread, _)| !thread.is_finished());
        let busy = connections.open.len() >= CONNECTIONS;
        let shared = Arc::clone(owner);
        let served = stream.try_clone().and_then(|kept| {
            let ours = stream.try_clone()?;
            let run = move || {
                match busy {
                    true => refuse(stream),
                    false => serve(&shared, stream),
                }
                // The copy that is kept for the server's end must not keep it open. The client
                // may be gone.
                drop(ours.shutdown(Shutdown::Both));
            };
            let thread = std::thread::Builder::new()
                .name("request".into())
                .spawn(run)?;
            Ok((thread, kept))
        });
        match served {
            Ok(served) => connections.open.push(served),
            Err(e) => log::error!("a connection of the control socket: {e}"),
        }
    }
}

fn refuse(stream: UnixStream) {
    let message = format!("{CONNECTIONS} requests are under way, which is the most there may be");
    if let Ok(channel) = Channel::new(stream) {
        // The asker sees the end if not this.
        drop(channel.send(&failure(message)));
    }
}

fn failure(message: impl Into<String>) -> Reply {
    Reply::Failed {
        message: message.into(),
        code: None,
    }
}

fn serve(owner: &Owner, stream: UnixStream) {
    let mut channel = match Channel::new(stream) {
        Ok(channel) => channel,
        Err(e) => return log::error!("a connection of the control socket: {e}"),
    };
    let reply = match channel.receive(Some(REQUEST_LIMIT)) {
        // Somebody only looked whether there is somebody.
        Ok(None) | Err(WireError::Io(_)) => return,
        Ok(Some(Request::Logs { follow: true })) => return follow(owner, &channel),
        Ok(Some(Request::Exec(order))) => match exec::start(owner, order) {
            Ok(process) => return exec::attend(process, channel),
            Err(reply) => reply,
        },
        Ok(Some(request)) => owner.handle(request),
        Err(e) => failure(e.to_string()),
    };
    if let Err(e) = channel.send(&reply) {
        log::debug!("an answer on the control socket: {e}");
    }
}

/// Log records until the VM or the reader ends.
fn follow(owner: &Owner, channel: &Channel) {
    let mut from = 0;
    let mut deadline = None;
    loop {
        let over = owner.vm.log_is_over() || deadline.is_some_and(|at| Instant::now() >= at);
        let tail = owner.vm.wait_log_from(from, LOOK);
        from = tail.next;
        // Also when there is nothing: a reader that is gone is noticed so.
        if channel.send(&logs(&tail)).is_err() || over {
            return;
        }
        if owner.vm.ended().is_some() {
            // The last records are on their way from the socket; nothing waits behind the end.
            deadline.get_or_insert_with(|| Instant::now() + LAST_RECORDS);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn logs(tail: &Tail) -> Reply {
    Reply::Logs {
        records: tail.records.iter().map(Record::to_value).collect(),
        missed: tail.missed,
    }
}

impl Owner {
    fn attachments(&self) -> MutexGuard<'_, Attachments> {
        lock(&self.attachments)
    }

    fn handle(&self, request: Request) -> Reply {
        let done = |outcome: Result<(), String>| match outcome {
            Ok(()) => Reply::Done,
            Err(message) => failure(message),
        };
        match request {
            Request::Status => Reply::Status(self.status()),
            Request::Attach(mut order) => {
                let container = match &order.target.container {
                    None => None,
                    Some(id) => match self.container(id) {
                        Ok(known) => Some(known),
                        Err(message) => return failure(message),
                    },
                };
                order.target.container = container.map(|known| known.id.clone());
                let inside = container.map(|k| (k.id.as_str(), k.passage.as_ref()));
                let mut attachments = self.attachments();
                if self.closing.load(Ordering::SeqCst) {
                    return failure("it is about to end");
                }
                let attached = attachments.attach(&self.vm, order, inside);
                done(attached.map_err(|e| e.to_string()))
            }
            Request::Detach(mut target) => {
                if let Some(id) = &target.container {
                    match self.container(id) {
                        Ok(known) => target.container = Some(known.id.clone()),
                        Err(message) => return failure(message),
                    }
                }
                let detached = self.attachments().detach(&self.vm, &target);
                done(detached.map_err(|e| e.to_string()))
            }
            Request::Processes => match self.properties("ProcessList") {
                Ok(all) => Reply::Processes(
                    all.into_iter()
                        .map(|(id, properties)| (id, pids(&properties)))
                        .collect(),
                ),
                Err(e) => failure(e.to_string()),
            },
            Request::Statistics => match self.properties("Statistics") {
                Ok(all) => Reply::Statistics(all),
                Err(e) => failure(e.to_string()),
            },
            Request::Logs { .. } => logs(&self.vm.wait_log_from(0, Duration::ZERO)),
            Request::Stacks => match self.vm.dump_stacks() {
                Ok(text) => Reply::Text(text),
                Err(e) => failure(e.to_string()),
            },
            Request::Stop(stop) => done(self.stop(&stop)),
            Request::Exec(_) | Request::Signal { .. } | Request::Resize { .. } => {
                failure("there is no process on this connection")
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            name: self.name.to_string(),
            pid: std::process::id(),
            command: self.command.to_owned(),
            up_seconds: self.started.elapsed().as_secs(),
            memory_mib: self.vm.memory_mib(),
            containers: self.vm.containers(),
            attachments: self.attachments().list(),
        }
    }

    /// A container by its id or the beginning of it, or the only one.
    pub(super) fn container(&self, id: &str) -> Result<&Known, String> {
        let fits: Vec<&Known> = self
            .containers
            .iter()
            .filter(|known| known.id.starts_with(id))
            .collect();
        match (fits.as_slice(), id) {
            ([known], _) => Ok(known),
            ([], "") => Err("it has no container".into()),
            ([], id) => Err(format!("it has no container {id}")),
            (_, "") => Err("it has several containers: name one".into()),
            (_, id) => Err(format!("it has several containers {id}…")),
        }
    }

    /// Properties of all containers that run.
    fn properties(&self, kind: &str) -> Result<Vec<(String, Value)>, HostError> {
        let mut all = Vec::new();
        for id in self.vm.containers() {
            match self.vm.properties(&id, &[kind]) {
                Ok(properties) => all.push((id, properties)),
                // It ended meanwhile.
                Err(HostError::Refused { .. }) if !self.vm.containers().contains(&id) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Returns when QEMU is gone.
    fn stop(&self, stop: &Stop) -> Result<(), String> {
        let vm = &self.vm;
        let grace = Duration::from_secs(stop.grace.min(3600));
        let gone = |limit: Duration| vm.vm().wait(limit).is_ok();
        if stop.force {
            vm.vm().kill();
        } else {
            for (urge, limit) in [(Urge::Asked, grace), (Urge::Pressed, END_LIMIT)] {
                // Told by the wait if it matters.
                if let Err(e) = (self.on_stop)(urge) {
                    log::debug!("stopping: {e}");
                }
                if gone(limit) {
                    return Ok(());
                }
            }
        }
        match gone(END_LIMIT) {
            true => Ok(()),
            false => Err("it does not end; `uvm stop --force` kills it".into()),
        }
    }
}

fn pids(properties: &Value) -> Vec<u32> {
    let list = properties["ProcessList"].as_array();
    let ids: HashSet<u32> = list
        .into_iter()
        .flatten()
        .filter_map(|process| process["ProcessId"].as_u64())
        .filter_map(|pid| u32::try_from(pid).ok())
        .collect();
    let mut ids: Vec<u32> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}
