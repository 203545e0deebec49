//! Output that nobody wants: that of processes which another process has left behind. It is read,
//! because a process that nobody reads from would stop, or get SIGPIPE.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::read;

use super::pending::{Awaited, Progress, Wake, Work, WorkKey, WorkKind};
use super::Uvm;
use crate::reactor::Interest;

struct LeftOutput {
    label: String,
    output: OwnedFd,
}

impl Uvm {
    /// Reads `output`, which does not block, until its last writer is gone, and drops what comes.
    /// `pid` is the process that had it first.
    pub(super) fn drop_output(&mut self, pid: u32, output: OwnedFd) {
        let label = format!("output of what process {pid} has left behind");
        self.begin(LeftOutput { label, output });
    }
}

impl Work for LeftOutput {
    fn kind(&self) -> WorkKind {
        WorkKind::LeftOutput
    }

    fn label(&self) -> &str {
        &self.label
    }

    fn describe(&self) -> String {
        self.label.clone()
    }

    fn awaited(&self) -> Awaited<'_> {
        Awaited {
            fd: Some((self.output.as_fd(), Interest::READ)),
            ..Awaited::default()
        }
    }

    fn wake(&mut self, _: WorkKey, _: Wake, buffer: &mut [u8]) -> Progress {
        match read(&self.output, buffer) {
            Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR) => Progress::Wait,
            // A terminal's end is EIO.
            Ok(0) | Err(_) => Progress::Over(Box::new(|_| ())),
        }
    }
}
