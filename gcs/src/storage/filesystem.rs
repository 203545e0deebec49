//! Which file system is on a device, and putting one there.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::error::Failure;

/// A file system that is known by its magic number.
struct Kind {
    name: &'static str,
    offset: usize,
    magic: &'static [u8],
    /// Mount data that keeps a read-only mount from writing to the journal.
    read_only: &'static str,
}

/// The long magics first: the two bytes of ext4 can stand in another's UUID by chance.
const KINDS: [Kind; 4] = [
    Kind {
        name: "xfs",
        offset: 0,
        magic: b"XFSB",
        read_only: "norecovery",
    },
    Kind {
        name: "squashfs",
        offset: 0,
        magic: b"hsqs",
        read_only: "",
    },
    Kind {
        name: "erofs",
        offset: 1024,
        magic: &0xe0f5_e1e2_u32.to_le_bytes(),
        read_only: "",
    },
    Kind {
        name: "ext4",
        offset: 1024 + 56,
        magic: &0xef53_u16.to_le_bytes(),
        read_only: "noload",
    },
];

/// What has to be read to find any magic.
const HEAD: usize = 1024 + 58;

/// The file system on the device by its magic number; none for an unknown one.
pub fn detect(device: &Path) -> io::Result<Option<&'static str>> {
    let file = File::open(device)?;
    let mut head = [0; HEAD];
    let mut filled = 0;
    while filled < HEAD {
        match file.read_at(&mut head[filled..], filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(KINDS
        .iter()
        .find(|kind| {
            head[..filled]
                .get(kind.offset..)
                .is_some_and(|at| at.starts_with(kind.magic))
        })
        .map(|kind| kind.name))
}

/// Mount data for a read-only mount of this type (P-243).
pub fn read_only_data(kind: &str) -> &'static str {
    KINDS
        .iter()
        .find(|known| known.name == kind)
        .map_or("", |known| known.read_only)
}

/// A program that makes a file system.
#[derive(Debug, PartialEq, Eq)]
pub struct Formatter {
    pub kind: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
}

/// Both ask nobody (a disk with another file system on it, a whole disk) and print nothing.
const FORMATTERS: [Formatter; 2] = [
    Formatter {
        kind: "ext4",
        program: "mkfs.ext4",
        arguments: &["-F", "-q"],
    },
    Formatter {
        kind: "xfs",
        program: "mkfs.xfs",
        arguments: &["-f", "-q"],
    },
];

const PROGRAM_DIRECTORIES: [&str; 4] = ["/sbin", "/usr/sbin", "/bin", "/usr/bin"];
/// Below the five minutes after which the host gives up on any request (section 11.1).
const FORMAT_TIME: Duration = Duration::from_secs(240);
const LONGEST_COMPLAINT: usize = 4096;

impl Formatter {
    /// # Errors
    /// Any type but the two that the host may ask for (also the empty one).
    pub fn of(kind: &str) -> Result<&'static Self, Failure> {
        FORMATTERS
            .iter()
            .find(|formatter| formatter.kind == kind)
            .ok_or_else(|| {
                Failure::unspecified(format!(
                    "cannot make a file system of type {kind:?}: only ext4 and xfs are known"
                ))
            })
    }

    fn locate(&self) -> Result<PathBuf, Failure> {
        PROGRAM_DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(self.program))
            .find(|program| program.exists())
            .ok_or_else(|| {
                Failure::unspecified(format!(
                    "{} is not in this image: boot an image that contains it, or send a \
                     disk that has a file system",
                    self.program
                ))
            })
    }
}

/// Runs the program on the device; what it says on stderr is part of the error.
pub fn format(formatter: &Formatter, device: &Path) -> Result<(), Failure> {
    let program = formatter.locate()?;
    let failed =
        |why: String| Failure::unspecified(format!("{} on {device:?}: {why}", formatter.program));
    let mut child = Command::new(program)
        .args(formatter.arguments)
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
            // Fails only for a child that has ended, which is what is wanted.
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
    fn file_systems_are_known_by_their_magic() {
        let top = tempfile::tempdir().unwrap();
        let device = top.path().join("disk");
        for (offset, magic, expected) in [
            (0, &b"XFSB"[..], Some("xfs")),
            (0, b"hsqs", Some("squashfs")),
            (1024, &[0xe2, 0xe1, 0xf5, 0xe0], Some("erofs")),
            (1080, &[0x53, 0xef], Some("ext4")),
            (1081, &[0x53, 0xef], None),
            (0, b"XFS", None),
        ] {
            let mut bytes = vec![0; 4096];
            bytes[offset..offset + magic.len()].copy_from_slice(magic);
            std::fs::write(&device, &bytes).unwrap();
            assert_eq!(
                detect(&device).unwrap(),
                expected,
                "{magic:02x?} at {offset}"
            );
        }
        // Too short for any superblock; absent.
        std::fs::write(&device, [0; 1081]).unwrap();
        assert_eq!(detect(&device).unwrap(), None);
        assert!(detect(&top.path().join("none")).is_err());
    }

    #[test]
    fn only_what_writes_a_journal_needs_data_for_a_read_only_mount() {
        for (kind, expected) in [
            ("ext4", "noload"),
            ("xfs", "norecovery"),
            ("erofs", ""),
            ("squashfs", ""),
            ("vfat", ""),
        ] {
            assert_eq!(read_only_data(kind), expected, "{kind}");
        }
    }

    #[test]
    fn a_failing_formatter_is_quoted() {
        let broken = Formatter {
            kind: "ext4",
            program: "sh",
            arguments: &["-c", "echo no superblock for you >&2; exit 3"],
        };
        let failure = format(&broken, Path::new("/dev/null")).unwrap_err();
        assert!(
            failure.message.contains("no superblock for you"),
            "{failure}"
        );
        assert!(failure.message.contains('3'), "{failure}");
        let absent = Formatter {
            program: "mkfs.nothing",
            ..broken
        };
        let failure = format(&absent, Path::new("/dev/null")).unwrap_err();
        assert!(failure.message.contains("not in this image"), "{failure}");
        assert!(Formatter::of("").is_err() && Formatter::of("btrfs").is_err());
    }
}
