//! The side of the process that has the VM: one thread accepts, one per connection serves.
//!
//! What requests share has locks of its own ([`Attachments`] one at a time) or of the fake host.
//! Every wait ends with the VM, so [`Server::close`] and `Drop` can join all threads.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::attachments::Attachments;
use super::directory::{Directory, Name, Socket};
use super::wire::{Attach, Channel, Reply, Request, WireError};
use super::{exec, requests, ControlError};
use uvm::attach_dir::AttachDir;
use uvm::Uvm;
use uvm_host::{End, HostError};

/// The most connections at once. Each costs a thread.
const CONNECTIONS: usize = 64;
/// How long the request may take to arrive.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts to accept, when there are no descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// A container of the VM, as its owner knows it.
#[derive(Debug, Clone)]
pub struct Known {
    pub id: String,
    /// `process` of its spec, the pattern of further processes.
    pub process: Value,
    pub attach_dir: Option<AttachDir>,
}

/// How urgently the VM is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urge {
    /// What runs in it is asked to end.
    Asked,
    /// It had its time, and is killed.
    Pressed,
}

type OnStop = Box<dyn Fn(Urge) -> Result<(), HostError> + Send + Sync>;

/// What connections share.
pub(super) struct Owner {
    pub(super) name: Name,
    pub(super) command: &'static str,
    pub(super) vm: Arc<Uvm>,
    pub(super) containers: Vec<Known>,
    /// Held while an attachment is made or undone, which takes as long as the guest and QEMU do.
    attachments: Mutex<Attachments>,
    /// A list of the attachments, for requests that only read it.
    listed: Mutex<Vec<Attach>>,
    pub(super) on_stop: OnStop,
    pub(super) started: Instant,
    closing: AtomicBool,
}

impl Owner {
    /// Changes the attachments, unless the VM is about to end.
    pub(super) fn change<E: ToString>(
        &self,
        change: impl FnOnce(&mut Attachments, &Uvm) -> Result<(), E>,
    ) -> Result<(), String> {
        let mut attachments = lock(&self.attachments);
        if self.closing.load(Ordering::SeqCst) {
            return Err("it is about to end".into());
        }
        let outcome = change(&mut attachments, &self.vm);
        *lock(&self.listed) = attachments.list();
        outcome.map_err(|e| e.to_string())
    }

    pub(super) fn listed(&self) -> Vec<Attach> {
        lock(&self.listed).clone()
    }
}

#[derive(Default)]
struct Connections {
    open: Vec<(JoinHandle<()>, UnixStream)>,
}

/// Serves requests until it is dropped, and then kills the VM. Normally [`Server::close`] and a
/// power-off come before.
pub struct Server {
    owner: Arc<Owner>,
    listener: UnixListener,
    socket: Option<Socket>,
    connections: Arc<Mutex<Connections>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `vm` under a name in `directory`. `on_stop` ends what runs in it; its owner
    /// then ends the VM.
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
            listed: Mutex::default(),
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

    /// Takes no more requests and undoes the attachments, so that everything written to them is on
    /// this machine. Connections that wait for the VM's end go on waiting.
    pub fn close(&mut self) {
        self.stop_accepting();
        lock(&self.owner.attachments).detach_all(&self.owner.vm);
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
        // This ends every wait for the guest or for QEMU.
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
                // This process is out of descriptors, perhaps for a while.
                log::error!("the control socket: {e}");
                std::thread::sleep(PAUSE);
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
        // If this does not arrive, the client sees the end of the connection.
        drop(channel.send(&failure(message)));
    }
}

pub(super) fn failure(message: impl Into<String>) -> Reply {
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
        // The connection was only a check whether the VM runs.
        Ok(None) | Err(WireError::Io(_)) => return,
        Ok(Some(Request::Logs { follow })) => return requests::logs(owner, &channel, follow),
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
