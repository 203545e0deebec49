//! Shells for people: on the console of a machine whose boot has failed, and on a vsock port, one
//! with a terminal for each connection. The latter need neither PID 1's loop nor its bridge, so
//! they work when both are stuck.
//!
//! From outside: `CONNECT 2323` on the Unix socket of the vsock device under QEMU. On Hyper-V a
//! port is the service `PPPPPPPP-facb-11e6-bd58-64006a7986d3`, P in hexadecimal (2323: 00000913),
//! which the VM's document has to allow; that has not been tried there.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use gcs::sys::channel::set_nonblocking;
use gcs::sys::fds;
use gcs::sys::process::{self, Program};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::pty::{posix_openpt, unlockpt};
use nix::sys::socket::{shutdown, Shutdown};
use nix::unistd::{read, setsid, write, Pid};
use vsock::{VsockListener, VMADDR_CID_ANY};

use crate::console::{cook, terminal};

/// The most shells at a time. A further connection waits.
const MOST: usize = 16;
/// How often ended shells are looked for while there are some, in milliseconds.
const COLLECT: u16 = 1000;
/// The most bytes that are buffered in each direction.
const ROOM: usize = 4096;
/// The character that ends the input (termios(3), VEOF). It is sent again after a pause, because it
/// has no effect while a shell changes the terminal's mode.
const END: u8 = 4;
const AGAIN: u16 = 500;
/// On the kernel line: another port for shells than the image's; 0 for none.
const PORT_OPTION: &str = "uvm.shell_port=";

const SHELL: &str = "/bin/sh";
const ENV: [(&str, &str); 4] = [
    ("PATH", "/sbin:/usr/sbin:/bin:/usr/bin"),
    ("HOME", "/root"),
    ("TERM", "dumb"),
    ("PS1", "uvm:\\w# "),
];

/// Becomes a shell that has the terminal for its own.
///
/// # Errors
/// The terminal cannot be opened, or there is no shell.
pub fn on_console(path: &Path, baud: u32) -> io::Result<()> {
    // This fails when PID 1 has already made it the leader of a session.
    setsid().ok();
    let fd = terminal(path, false).or_else(|_| terminal(Path::new("/dev/console"), true))?;
    // A terminal that cannot be set is used as it is.
    cook(&fd, baud).ok();
    nix::unistd::dup2_stdin(&fd)?;
    nix::unistd::dup2_stdout(&fd)?;
    nix::unistd::dup2_stderr(&fd)?;
    drop(fd);
    Err(Command::new(SHELL)
        .env_clear()
        .envs(ENV)
        .current_dir("/")
        .exec())
}

/// Gives a shell to every connection to the port. Returns at once when the kernel line says 0.
///
/// # Errors
/// This is not a utility VM, or the port cannot be bound.
pub fn listen(port: &str) -> io::Result<()> {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let Some(port) = chosen(port, &line) else {
        return Ok(());
    };
    only_in_a_guest()?;
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
    let mut sessions: Vec<Pid> = Vec::new();
    loop {
        while let Ok(Some((ended, _))) = process::reap_one() {
            sessions.retain(|session| *session != ended);
        }
        let wait = match sessions.len() {
            0 => PollTimeout::NONE,
            _ => PollTimeout::from(COLLECT),
        };
        let events = match sessions.len() < MOST {
            true => PollFlags::POLLIN,
            false => PollFlags::empty(),
        };
        match poll(&mut [PollFd::new(listener.as_fd(), events)], wait) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        // A client that has gone again is dropped.
        let Ok((connection, _)) = listener.accept() else {
            continue;
        };
        let session = process::fork_child(&[connection.as_fd()], || {
            i32::from(serve(connection.as_fd()).is_err())
        });
        sessions.extend(session.ok());
    }
}

/// The kernel line overrides the port.
fn chosen(port: &str, kernel_line: &str) -> Option<u32> {
    let options = kernel_line.split_whitespace().take_while(|w| *w != "--");
    let asked = options
        .filter_map(|option| option.strip_prefix(PORT_OPTION))
        .last();
    let port = asked.unwrap_or(port).parse().ok();
    port.filter(|port| *port != 0)
}

/// Only a child of the guest's own PID 1 may listen, because anybody who reaches the vsock gets a
/// shell.
fn only_in_a_guest() -> io::Result<()> {
    let first = fs::read_link("/proc/1/exe")?;
    if nix::unistd::getppid().as_raw() == 1 && first == Path::new("/init") {
        return Ok(());
    }
    Err(io::Error::other(
        "this is no utility VM, or PID 1 has not started this",
    ))
}

fn start(terminal: &OwnedFd) -> io::Result<()> {
    if !Path::new(SHELL).exists() {
        return Err(io::Error::other("there is no /bin/sh in this image"));
    }
    let env: Vec<CString> = ENV
        .iter()
        .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
        .collect();
    let root: &CStr = c"/";
    process::start(&Program {
        candidates: &[c"/bin/sh".into()],
        argv: &[c"sh".into()],
        env: &env,
        cwd: Some(root),
        fds: &[terminal.as_fd(); 3],
        controlling_terminal: true,
        dumps_core: false,
    })?;
    Ok(())
}

/// One session: a shell on a terminal, until it ends or the other side is gone.
fn serve(connection: BorrowedFd<'_>) -> io::Result<()> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    unlockpt(&master)?;
    let peer = fds::pty_peer(&master)?;
    fds::resize(&master, 24, 80)?;
    if let Err(error) = start(&peer) {
        // The connection may be gone as well.
        write(connection, format!("{error}\r\n").as_bytes()).ok();
        return Err(error);
    }
    // The end of the shell shows when nobody has the terminal open any more.
    drop(peer);
    join(connection, master.as_fd())?;
    shutdown(connection.as_raw_fd(), Shutdown::Write)?;
    Ok(())
}

/// Bytes taken from one side that the other has not taken yet.
#[derive(Default)]
struct Way {
    bytes: Vec<u8>,
    /// Nothing more comes.
    ended: bool,
}

impl Way {
    fn wants(&self) -> bool {
        self.bytes.is_empty() && !self.ended
    }

    fn take(&mut self, from: BorrowedFd<'_>) -> nix::Result<()> {
        let mut buffer = [0; ROOM];
        match read(from, &mut buffer) {
            Ok(0) => self.ended = true,
            Ok(got) => self.bytes.extend_from_slice(&buffer[..got]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    fn give(&mut self, to: BorrowedFd<'_>) -> nix::Result<()> {
        match write(to, &self.bytes) {
            Ok(put) => drop(self.bytes.drain(..put)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }
}

/// Carries bytes between a connection and a terminal's master until the terminal ends.
fn join(connection: BorrowedFd<'_>, master: BorrowedFd<'_>) -> io::Result<()> {
    for fd in [connection, master] {
        set_nonblocking(fd, true)?;
    }
    let (mut typed, mut shown) = (Way::default(), Way::default());
    loop {
        let events = |way_in: &Way, way_out: &Way| {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, way_in.wants());
            events.set(PollFlags::POLLOUT, !way_out.bytes.is_empty());
            events
        };
        let (outer, inner) = (events(&typed, &shown), events(&shown, &typed));
        let mut fds = [PollFd::new(connection, outer), PollFd::new(master, inner)];
        // A terminal that nobody has open would end every wait at once.
        let watched = if inner.is_empty() { 1 } else { 2 };
        let wait = match typed.ended {
            true => PollTimeout::from(AGAIN),
            false => PollTimeout::NONE,
        };
        match poll(&mut fds[..watched], wait) {
            // The end of the connection's input becomes the end character, so that the shell of a
            // script ends with its input.
            Ok(0) if typed.bytes.is_empty() => typed.bytes.push(END),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        if fds[0]
            .revents()
            .is_some_and(|events| events.intersects(gone))
        {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if typed.wants() {
            typed.take(connection)?;
            if typed.ended {
                typed.bytes.push(END);
            }
        }
        if !typed.bytes.is_empty() && typed.give(master).is_err() {
            typed.bytes.clear();
        }
        // A terminal gives EIO when the last program has closed it.
        if shown.wants() && matches!(shown.take(master), Err(Errno::EIO)) {
            shown.ended = true;
        }
        if !shown.bytes.is_empty() {
            shown.give(connection)?;
        }
        if shown.ended && shown.bytes.is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_kernel_line_moves_shells_or_has_none() {
        for (line, want) in [
            ("quiet", Some(2323)),
            ("uvm.shell_port=7 quiet", Some(7)),
            ("uvm.shell_port=0", None),
            ("quiet -- uvm.shell_port=7", Some(2323)),
        ] {
            assert_eq!(chosen("2323", line), want, "{line}");
        }
        assert_eq!(chosen("none", ""), None);
    }

    #[test]
    fn this_machine_gives_no_shells() {
        listen("2323").expect_err("it is no guest");
    }

    #[allow(clippy::disallowed_methods, reason = "the other side of the socket")]
    /// A shell over a socket, to its end: everything typed is answered, nothing is lost.
    #[test]
    fn a_session_ends_with_its_input() {
        let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
        let session = std::thread::spawn(move || serve(theirs.as_fd()));
        ours.write_all(b"stty -echo; echo seen-$((40+2)); seq 1 2000\n")
            .expect("room");
        ours.shutdown(std::net::Shutdown::Write).expect("half");
        let mut said = String::new();
        ours.read_to_string(&mut said).expect("an end");
        assert!(
            said.contains("seen-42") && said.contains("2000\r\n"),
            "{said}"
        );
        session.join().expect("no panic").expect("a whole session");
    }
}
