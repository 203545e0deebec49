//! MappedDirectory: a directory of the host over 9P on a connection that is open already
//! (protocol section 7.3).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use nix::mount::MsFlags;

use super::kernel::{Kernel, Linux, Mount};
use super::path::mount_point;
use super::{Journal, MountRecord, Source, Undo};
use crate::error::Failure;

/// Bytes of a 9P message (protocol section 7.3). The kernel line may name another size. Messages
/// are answered one after another, so larger ones are faster if the server takes them.
const MESSAGE_SIZE: u32 = 65_536;
const MESSAGE_SIZE_OPTION: &str = "gcs.9p_msize=";
/// The sizes that the kernel's 9P accepts for a connection.
const MESSAGE_SIZES: std::ops::RangeInclusive<u32> = 4096..=1 << 20;

/// Lets programs map files of shares shared and writable, which 9P without a cache refuses. The
/// guest's memory and the host's file may then differ until the guest writes back.
const CACHE_OPTION: &str = "gcs.9p_cache=";

/// How directories are mounted, by the options of the kernel line, which stand before `--`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ShareOptions {
    message_size: u32,
    maps: bool,
}

impl ShareOptions {
    fn of(kernel_line: &str) -> Self {
        let last = |option: &str| {
            let words = kernel_line.split_whitespace();
            let words = words.take_while(|word| *word != "--");
            words.filter_map(|word| word.strip_prefix(option)).last()
        };
        let message_size =
            last(MESSAGE_SIZE_OPTION).map_or(MESSAGE_SIZE, |value| match value.parse() {
                Ok(size) if MESSAGE_SIZES.contains(&size) => size,
                _ => {
                    log::warn!(
                        "{MESSAGE_SIZE_OPTION}{value}: not a number of bytes from 4096 to 1048576"
                    );
                    MESSAGE_SIZE
                }
            });
        let maps = match last(CACHE_OPTION) {
            None | Some("none") => false,
            Some("mmap") => true,
            Some(value) => {
                log::warn!("{CACHE_OPTION}{value}: neither none nor mmap");
                false
            }
        };
        Self { message_size, maps }
    }
}

/// A directory to be mounted; checked where the request is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    pub port: u32,
    pub mount_path: PathBuf,
    /// Empty for the directory that the server gives without a name.
    share: String,
    read_only: bool,
}

impl Directory {
    /// # Errors
    /// A port, path or name that cannot be one.
    pub fn new(mount_path: &str, port: i64, share: &str, read_only: bool) -> Result<Self, Failure> {
        let Some(mount_path) = mount_point(mount_path)? else {
            return Err(Failure::unspecified("MappedDirectory without MountPath"));
        };
        let port = u32::try_from(port).ok().filter(|port| *port > 0);
        let Some(port) = port else {
            return Err(Failure::unspecified("MappedDirectory without a Port"));
        };
        // A comma would begin another option.
        if share.contains([',', '\0']) {
            return Err(Failure::unspecified(format!(
                "ShareName {share:?} cannot be mounted: it contains a comma or NUL"
            )));
        }
        Ok(Self {
            port,
            mount_path,
            share: share.to_owned(),
            read_only,
        })
    }

    fn mount_data(&self, connection: i32, options: ShareOptions) -> String {
        let size = options.message_size;
        let mut data = format!("trans=fd,rfdno={connection},wfdno={connection},msize={size}");
        if options.maps {
            data += ",cache=mmap";
        }
        if !self.share.is_empty() {
            data += ",aname=";
            data += &self.share;
        }
        data
    }
}

/// Mounts it. Blocks while the server on the connection is silent. The kernel keeps the connection,
/// so the caller may close its copy.
pub fn add(
    directory: &Directory,
    connection: BorrowedFd<'_>,
    journal: &Journal,
) -> Result<MountRecord, Failure> {
    add_with(&Linux, directory, connection, journal)
}

fn add_with(
    kernel: &dyn Kernel,
    directory: &Directory,
    connection: BorrowedFd<'_>,
    journal: &Journal,
) -> Result<MountRecord, Failure> {
    let path = &directory.mount_path;
    let options = ShareOptions::of(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    Undo::run(kernel, journal, |undo| {
        undo.make_directories(path, 0o700)?;
        let flags = match directory.read_only {
            true => MsFlags::MS_RDONLY,
            false => MsFlags::empty(),
        };
        let mount = Mount {
            source: path,
            target: path,
            kind: "9p",
            flags,
            data: &directory.mount_data(connection.as_raw_fd(), options),
        };
        undo.mount(mount).map_err(|error| {
            Failure::unspecified(format!(
                "cannot mount the directory {:?} of port {} on {path:?}: {error}",
                directory.share, directory.port
            ))
        })?;
        Ok(MountRecord {
            source: Source::Directory,
            mount_path: Some(path.clone()),
            device: None,
            filesystem: "9p".into(),
            read_only: directory.read_only,
            mappings: Vec::new(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_data_is_as_the_kernel_wants_it() {
        let (plain, maps) = (ShareOptions::of(""), ShareOptions::of("gcs.9p_cache=mmap"));
        for (share, options, expected) in [
            ("", plain, "trans=fd,rfdno=7,wfdno=7,msize=65536"),
            ("0", plain, "trans=fd,rfdno=7,wfdno=7,msize=65536,aname=0"),
            (
                "0",
                maps,
                "trans=fd,rfdno=7,wfdno=7,msize=65536,cache=mmap,aname=0",
            ),
        ] {
            // Read-only is a flag of the mount, not an option of 9P.
            for read_only in [false, true] {
                let directory = Directory::new("/m", 564, share, read_only).unwrap();
                assert_eq!(directory.mount_data(7, options), expected);
            }
        }
    }

    #[test]
    fn the_kernel_line_sets_how_directories_are_mounted() {
        for (line, message_size, maps) in [
            ("quiet -- -e 1 /bin/gcs", 65_536, false),
            ("gcs.9p_msize=262144 quiet", 262_144, false),
            (
                "gcs.9p_msize=262144 gcs.9p_msize=1048576 -- x",
                1 << 20,
                false,
            ),
            ("gcs.9p_msize=1048577", 65_536, false),
            ("gcs.9p_msize=0", 65_536, false),
            ("gcs.9p_msize=64k", 65_536, false),
            (
                "quiet -- gcs.9p_msize=262144 gcs.9p_cache=mmap",
                65_536,
                false,
            ),
            ("gcs.9p_cache=mmap", 65_536, true),
            ("gcs.9p_cache=mmap gcs.9p_cache=none", 65_536, false),
            ("gcs.9p_cache=loose", 65_536, false),
        ] {
            assert_eq!(
                ShareOptions::of(line),
                ShareOptions { message_size, maps },
                "{line}"
            );
        }
    }

    #[test]
    fn settings_that_cannot_be_mounted_are_refused() {
        for (path, port, share) in [
            ("", 564, ""),
            ("m", 564, ""),
            ("/m", 0, ""),
            ("/m", -1, ""),
            ("/m", 564, "0,access=any"),
        ] {
            assert!(
                Directory::new(path, port, share, false).is_err(),
                "{path} {port} {share}"
            );
        }
    }
}
