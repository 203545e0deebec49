//! Makes a file system on a device: ext4 by own code, xfs by its program.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::ext4::{self, Stamp};
use crate::error::Failure;

/// What makes a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formatter {
    Ext4,
    Program(FormatterProgram),
}

/// A program of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormatterProgram {
    name: &'static str,
    arguments: &'static [&'static str],
    /// The image profile that has it.
    profile: &'static str,
}

/// With these options it overwrites another file system without asking, and prints nothing.
const MKFS_XFS: FormatterProgram = FormatterProgram {
    name: "mkfs.xfs",
    arguments: &["-f", "-q"],
    profile: "xfs",
};

const FORMATTERS: [(&str, Formatter); 2] = [
    ("ext4", Formatter::Ext4),
    ("xfs", Formatter::Program(MKFS_XFS)),
];

const PROGRAM_DIRECTORIES: [&str; 4] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"];
/// Shorter than the five minutes after which the host gives up on any request (section 11.1).
const FORMAT_TIME: Duration = Duration::from_secs(240);
const LONGEST_COMPLAINT: usize = 4096;

impl Formatter {
    /// # Errors
    /// The type is not one of the two that the host may ask for.
    pub fn of(kind: &str) -> Result<Self, Failure> {
        let found = FORMATTERS.iter().find(|(name, _)| *name == kind);
        found.map(|(_, formatter)| *formatter).ok_or_else(|| {
            Failure::unspecified(format!(
                "cannot make a file system of type {kind:?}: only ext4 and xfs are known"
            ))
        })
    }
}

/// Puts an empty file system on the device, whatever is there.
pub fn format(formatter: &Formatter, device: &Path) -> Result<(), Failure> {
    match formatter {
        Formatter::Ext4 => make_ext4(device, true).map_err(|error| {
            Failure::unspecified(format!(
                "cannot make an ext4 file system on {device:?}: {error}"
            ))
        }),
        Formatter::Program(program) => program.run(device),
    }
}

/// Blocks as long as the device does.
pub fn make_ext4(device: &Path, journal: bool) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    ext4::format(&file, size, &stamp()?, journal)
}

fn stamp() -> io::Result<Stamp> {
    let mut random = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let (mut uuid, mut hash_seed) = ([0; 16], [0; 16]);
    uuid.copy_from_slice(&random[..16]);
    hash_seed.copy_from_slice(&random[16..]);
    // A random UUID (RFC 9562, version 4).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Stamp {
        uuid,
        hash_seed,
        time: now.map_or(0, |now| u32::try_from(now.as_secs()).unwrap_or(u32::MAX)),
    })
}

impl FormatterProgram {
    fn locate(&self) -> Result<PathBuf, Failure> {
        PROGRAM_DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(self.name))
            .find(|program| program.exists())
            .ok_or_else(|| {
                Failure::unspecified(format!(
                    "{} is not in this image: boot one of the image profile {:?}, or send a \
                     disk that has a file system",
                    self.name, self.profile
                ))
            })
    }

    /// Runs the program on the device. Its stderr becomes part of the error.
    fn run(&self, device: &Path) -> Result<(), Failure> {
        let program = self.locate()?;
        let failed =
            |why: String| Failure::unspecified(format!("{} on {device:?}: {why}", self.name));
        let mut child = Command::new(program)
            .args(self.arguments)
            .arg(device)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let complaint = match complaint(&mut child, Instant::now() + FORMAT_TIME) {
            Ok(complaint) => complaint,
            Err(error) => {
                // This fails only for a child that has already ended.
                child.kill().ok();
                child.wait().ok();
                return Err(failed(error.to_string()));
            }
        };
        // Its stderr is closed: it has ended or is about to.
        let status = child
            .wait()
            .map_err(|error| failed(format!("no exit status: {error}")))?;
        if status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&complaint);
        Err(failed(format!("{status}: {}", complaint.trim())))
    }
}

/// Everything the child writes to stderr until it closes it, or the first part of it.
fn complaint(child: &mut Child, deadline: Instant) -> io::Result<Vec<u8>> {
    let Some(mut stderr) = child.stderr.take() else {
        return Ok(Vec::new());
    };
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("not done after {} s", FORMAT_TIME.as_secs()),
            ));
        }
        let timeout = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(timeout)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match stderr.read(&mut buffer)? {
            0 => return Ok(kept),
            length => {
                let room = LONGEST_COMPLAINT - kept.len();
                kept.extend_from_slice(&buffer[..length.min(room)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_formatter_is_quoted() {
        let broken = FormatterProgram {
            name: "sh",
            profile: "some",
            arguments: &["-c", "echo no superblock for you >&2; exit 3"],
        };
        let failure = broken.run(Path::new("/dev/null")).unwrap_err();
        assert!(
            failure.message.contains("no superblock for you"),
            "{failure}"
        );
        assert!(failure.message.contains('3'), "{failure}");
        let absent = FormatterProgram {
            name: "mkfs.nothing",
            ..broken
        };
        let failure = absent.run(Path::new("/dev/null")).unwrap_err();
        assert!(failure.message.contains("profile \"some\""), "{failure}");
        assert!(Formatter::of("").is_err() && Formatter::of("btrfs").is_err());
    }
}
