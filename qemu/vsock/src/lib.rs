//! A virtio-vsock device in user space, which QEMU drives over vhost-user. It needs neither root nor
//! `/dev/vhost-vsock`, and gives each port of the host side a Unix socket.
//!
//! ```text
//! guest ── virtqueues ── device ── packets ── muxer ── connection ── Unix streams ── host
//! ```
//!
//! On the host side every vsock port is a Unix socket, after Firecracker's convention: the
//! guest's connect to (2, P) reaches `UDS_P`; a client of `UDS` that writes `CONNECT P\n` reaches
//! the guest's port P and reads `OK N\n` once the guest has accepted.
//!
//! Both directions end on their own (real half-close). Bytes that were sent before a close arrive.
//! One blocked stream delays no other. Every buffer is bounded.
//!
//! QEMU wants shared memory and a chardev: `-object memory-backend-memfd,id=mem0,size=M,share=on
//! -machine q35,memory-backend=mem0 -m M -chardev socket,id=vs0,path=SOCKET
//! -device vhost-user-vsock-pci,chardev=vs0`.
//!
//! ```no_run
//! use std::os::unix::net::UnixListener;
//! use uvm_vsock::{host_socket, Device, DeviceConfig, Faults};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = DeviceConfig {
//!     socket: "/tmp/vhost.sock".into(),
//!     uds: "/tmp/vsock".into(),
//!     cid: 3,
//!     faults: Faults::default(),
//! };
//! // The guest's connect to port 1024 of the host comes here.
//! let listener = UnixListener::bind(host_socket(&config.uds, 1024))?;
//! let device = Device::start(config)?;
//! // … start QEMU with /tmp/vhost.sock …
//! let (stream, _) = listener.accept()?;
//! # drop(stream);
//! device.stop()?;
//! # Ok(()) }
//! ```
//!
//! `examples/echo.rs` is a whole program. Sources: the virtio specification 1.2, section 5.10 (socket
//! device); QEMU's vhost-user specification; Firecracker's `docs/vsock.md` for the sockets.

#![warn(missing_docs)]

mod connection;
mod credit;
mod device;
mod faults;
mod listener;
mod muxer;
mod packet;
mod stream;
mod table;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use vhost::vhost_user::{Error as VhostError, Listener};
use vhost_user_backend::{Error as DaemonError, ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

pub use faults::{Direction, Fault, Faults};
pub use listener::host_socket;

use device::{Backend, MUXER_EVENT};
use listener::BoundSocket;
use muxer::Muxer;

/// How long bytes the guest has sent may wait for the host's readers after QEMU has gone.
const DRAIN: Duration = Duration::from_secs(5);
/// The same once `stop` was called and somebody waits.
const HURRY: Duration = Duration::from_secs(1);

/// What a device is made of.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// The vhost-user socket that QEMU's chardev connects to.
    pub socket: PathBuf,
    /// The Unix socket of host-to-guest clients, and the prefix of the host's ports.
    pub uds: PathBuf,
    /// The guest's context id, 3 to 2³²−2: vsock(7) gives 0 to 2 and 2³²−1 meanings of their own.
    pub cid: u64,
    /// The faults to make, for tests.
    pub faults: Faults,
}

/// Why a device does not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A guest cannot have the context id of the configuration.
    #[error("vsock: {cid} cannot be a guest's context id, use 3 to 4294967294")]
    Cid {
        /// As configured.
        cid: u64,
    },
    /// One of the two sockets cannot be bound.
    #[error("vsock: cannot listen on {}: {source}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call failed that only fails on a machine that has run out of something.
    #[error("vsock: cannot {what}: {source}")]
    System {
        /// What was to be done, as an infinitive.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// QEMU did what vhost-user does not have; the text is the daemon's.
    #[error("vsock: vhost-user with QEMU failed: {0}")]
    VhostUser(String),
    /// A defect of the device.
    #[error("vsock: the device thread panicked")]
    Panicked,
}

type Shared = Arc<Mutex<Backend>>;

/// The device; start it before QEMU.
pub struct Device;

impl Device {
    /// Binds both sockets and serves one QEMU in the background.
    ///
    /// # Errors
    /// [`Error::Cid`], and [`Error::Listen`] when a socket cannot be bound. What fails later is told
    /// by [`DeviceHandle::wait`].
    pub fn start(config: DeviceConfig) -> Result<DeviceHandle, Error> {
        if !(3..u64::from(u32::MAX)).contains(&config.cid) {
            return Err(Error::Cid { cid: config.cid });
        }
        let listen = |path: PathBuf| |source| Error::Listen { path, source };
        let socket = BoundSocket::bind(&config.socket).map_err(listen(config.socket.clone()))?;
        let muxer = Muxer::new(config.cid, &config.uds, config.faults)
            .map_err(listen(config.uds.clone()))?;
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let backend = Arc::new(Mutex::new(Backend::new(muxer, memory.clone())));
        let (stop, stopped) = UnixStream::pair().map_err(|source| Error::System {
            what: "make a socket pair",
            source,
        })?;
        let server = Server {
            socket,
            stopped,
            backend: backend.clone(),
            memory,
            shutdown: Arc::default(),
        };
        let shutdown = server.shutdown.clone();
        let thread = std::thread::Builder::new()
            .name("vsock".to_owned())
            .spawn(move || server.run())
            .map_err(|source| Error::System {
                what: "start a thread",
                source,
            })?;
        Ok(DeviceHandle {
            thread: Some(thread),
            stop: Some(stop),
            shutdown,
            backend,
        })
    }
}

/// A running device. Dropping it stops the device and waits for its threads; both sockets are
/// then gone.
pub struct DeviceHandle {
    thread: Option<JoinHandle<Result<(), Error>>>,
    /// Closed to say "stop" to a device that still waits for QEMU.
    stop: Option<UnixStream>,
    shutdown: Arc<Mutex<Stop>>,
    backend: Shared,
}

/// How to stop a device that QEMU has connected to.
#[derive(Default)]
struct Stop {
    asked: bool,
    connection: Option<ShutdownHandle>,
}

impl DeviceHandle {
    /// Ends the device once the host side has read all bytes that were already taken from the
    /// guest, or after 1 s.
    pub fn stop(mut self) -> Result<(), Error> {
        self.ask_to_stop();
        self.join()
    }

    /// Waits until QEMU has gone and the device with it.
    ///
    /// # Errors
    /// [`Error::VhostUser`] when QEMU broke the vhost-user protocol, [`Error::System`] when this
    /// machine ran out of something; QEMU's leaving is none.
    pub fn wait(mut self) -> Result<(), Error> {
        self.join()
    }

    /// True once the device has ended, by itself or by `stop`.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Streams of the host side that are open now, for tests and diagnosis.
    pub fn streams(&self) -> usize {
        lock(&self.backend).muxer().streams()
    }

    /// Replaces the faults, for connections made from now on.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.backend).muxer().set_faults(faults);
    }

    fn ask_to_stop(&mut self) {
        self.stop = None;
        let mut stop = lock(&self.shutdown);
        stop.asked = true;
        if let Some(connection) = &stop.connection {
            connection.shutdown();
        }
    }

    fn join(&mut self) -> Result<(), Error> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::Panicked),
            None => Ok(()),
        }
    }
}

impl Drop for DeviceHandle {
    fn drop(&mut self) {
        self.ask_to_stop();
        if let Err(e) = self.join() {
            log::warn!("{e}");
        }
    }
}

/// What the device thread owns.
struct Server {
    socket: BoundSocket,
    stopped: UnixStream,
    backend: Shared,
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
    shutdown: Arc<Mutex<Stop>>,
}

impl Server {
    fn run(self) -> Result<(), Error> {
        let result = loop {
            match self.serve() {
                // Somebody has checked whether the socket is alive. QEMU has not connected yet.
                Ok(true) if !lock(&self.backend).was_used() && !self.stop_asked() => {}
                ended => break ended.map(drop),
            }
        };
        let mut backend = lock(&self.backend);
        backend.muxer().drain(DRAIN, HURRY, || self.stop_asked());
        result
    }

    fn stop_asked(&self) -> bool {
        lock(&self.shutdown).asked
    }

    /// Serves one connection; false when the device was stopped before there was one.
    fn serve(&self) -> Result<bool, Error> {
        if !self.wait_for_qemu()? {
            return Ok(false);
        }
        let system = |what| move |source| Error::System { what, source };
        let clone = self.socket.listener().try_clone();
        let mut listener = Listener::from(clone.map_err(system("copy the listener"))?);
        let name = "vsock-vhost".to_owned();
        let mut daemon = VhostUserDaemon::new(name, self.backend.clone(), self.memory.clone())
            .map_err(vhost_user)?;
        let epoll = lock(&self.backend).muxer().epoll_fd();
        for worker in daemon.get_epoll_handlers() {
            worker
                .register_listener(epoll, EventSet::IN, MUXER_EVENT)
                .map_err(system("watch the streams"))?;
        }
        daemon.start(&mut listener).map_err(vhost_user)?;
        {
            let mut stop = lock(&self.shutdown);
            stop.connection = daemon.shutdown_handle();
            if stop.asked {
                daemon.request_shutdown();
            }
        }
        match daemon.wait() {
            Err(DaemonError::HandleRequest(VhostError::Disconnected))
            | Err(DaemonError::HandleRequest(VhostError::PartialMessage)) => Ok(true),
            other => other.map(|()| true).map_err(vhost_user),
        }
        // Dropping the daemon joins its worker.
    }

    /// False when the device is stopped before QEMU has come.
    fn wait_for_qemu(&self) -> Result<bool, Error> {
        let events = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        loop {
            let mut fds = [
                PollFd::new(self.socket.listener().as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) if events(&fds[1]) => return Ok(false),
                Ok(_) if events(&fds[0]) => return Ok(true),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => {
                    return Err(Error::System {
                        what: "wait for QEMU",
                        source: e.into(),
                    })
                }
            }
        }
    }
}

/// The daemon's error is not `Sync`, but its text is.
fn vhost_user(error: DaemonError) -> Error {
    Error::VhostUser(error.to_string())
}

/// What it guards is numbers and sockets, each whole: a panic elsewhere leaves nothing torn.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one QEMU in the foreground, until it has gone.
pub fn serve(config: DeviceConfig) -> Result<(), Error> {
    log::info!(
        "vsock: waiting for QEMU on {}, guest {} at {}",
        config.socket.display(),
        config.cid,
        config.uds.display()
    );
    Device::start(config)?.wait()
}
