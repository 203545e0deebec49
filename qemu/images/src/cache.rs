//! Layer disks, made once and kept: `<dir>/<key>.<version>.erofs`. A layer's key tells all that it was
//! made of: itself and the layers below it.
//!
//! A maker holds an exclusive lock on `<key>.lock`, works in `<key>.making/` and renames the whole
//! disk into place, so a reader sees all of it or nothing, two makers of one key take turns, and
//! the next one sweeps what a killed one has left.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use super::e2fs;
use super::error::{Doing, OciError, Result};
use super::layer::{Builder, Lower};
use super::tarball;

/// Changes whenever the same layer would become another disk.
const LAYER: &str = "v2.erofs";
const SCRATCH: &str = "v1.ext4";

/// A disk that holds one layer as EROFS, for read-only use by any number of VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDisk {
    pub path: PathBuf,
    /// The chain of digests down to the lowest layer (image-spec, "Layer ChainID") in hex, or the
    /// fingerprint of a directory.
    pub key: String,
    /// Size of the disk; the file is sparse.
    pub bytes: u64,
}

/// A scratch disk of this size holds an ordinary day's files, and its file systems' tables (16 MiB
/// of zeros per GiB) are still made in no time. The file is sparse.
pub const SCRATCH_BYTES: u64 = 1 << 30;

#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

/// Bytes of a disk that holds hardly anything.
const SMALL: u64 = 4 << 20;

impl Cache {
    /// `dir`, or `$XDG_CACHE_HOME/lcow-uvm/layers`, or `~/.cache/lcow-uvm/layers`; made if missing.
    pub fn open(dir: Option<&Path>) -> Result<Cache> {
        let dir = match dir {
            Some(dir) => dir.to_path_buf(),
            None => default_dir(),
        };
        fs::create_dir_all(&dir).doing(|| format!("making the layer cache {}", dir.display()))?;
        let dir = dir
            .canonicalize()
            .doing(|| format!("opening the layer cache {}", dir.display()))?;
        Ok(Cache { dir })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disk of the layer `key` above the layers `below` (from the bottom up), from the cache or
    /// made of what `fill` adds.
    pub fn layer(
        &self,
        what: &str,
        key: &str,
        below: &[LayerDisk],
        fill: impl FnOnce(&mut Builder) -> Result<()>,
    ) -> Result<LayerDisk> {
        let path = self.make(&format!("{key}.{LAYER}"), |making| {
            log::info!("converting {what} to a disk (once)");
            let image = making.join("disk");
            let file = File::create(&image).doing(|| format!("making a disk of {what}"))?;
            let lower = Lower::open(below.iter().map(|disk| &*disk.path))?;
            let mut layer = Builder::new(lower, file)?;
            fill(&mut layer)?;
            tarball::finish(what, layer)?;
            Ok(image)
        })?;
        let bytes = fs::metadata(&path)
            .doing(|| format!("reading {}", path.display()))?
            .len();
        Ok(LayerDisk {
            path,
            key: key.to_string(),
            bytes,
        })
    }

    /// A new scratch disk at `to`: a sparse copy of a template that is formatted as an LCOW host
    /// formats its own (protocol 11.4).
    pub fn scratch(&self, bytes: u64, to: &Path) -> Result<()> {
        let what = format!("a scratch template of {bytes} bytes");
        let template = self.make(&format!("scratch-{bytes}.{SCRATCH}"), |making| {
            let image = making.join("disk");
            File::create(&image)
                .and_then(|f| f.set_len(bytes))
                .doing(|| format!("making {what}"))?;
            let options =
                "-q -F -E lazy_itable_init=0,nodiscard -O ^has_journal,sparse_super2,^resize_inode";
            let args = options
                .split(' ')
                .map(OsStr::new)
                .chain([image.as_os_str()]);
            e2fs::run("mkfs.ext4", &what, args)?;
            Ok(image)
        })?;
        let failed = |why: String| OciError::Tool {
            tool: "cp",
            doing: format!("copying the scratch template to {}", to.display()),
            why,
        };
        let done = Command::new("cp")
            .args(["--reflink=auto", "--sparse=always", "--"])
            .args([template.as_os_str(), to.as_os_str()])
            .env("LC_ALL", "C")
            .output()
            .map_err(|e| failed(format!("could not be started: {e}")))?;
        if !done.status.success() {
            return Err(failed(format!(
                "says: {}",
                String::from_utf8_lossy(&done.stderr).trim()
            )));
        }
        Ok(())
    }

    /// A new small disk at `to` with only an empty root on it.
    pub fn empty(&self, to: &Path) -> Result<()> {
        self.scratch(SMALL, to)?;
        let args = ["-w", "-R", "rmdir lost+found"].map(OsStr::new);
        let args = args.into_iter().chain([to.as_os_str()]);
        e2fs::run("debugfs", "an empty disk", args)
    }

    /// The file `name`, made by `make` in a directory of its own when it is not there.
    fn make(&self, name: &str, make: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if path.exists() {
            return Ok(path);
        }
        let lock = self.dir.join(format!("{name}.lock"));
        let file = File::create(&lock).doing(|| format!("making {}", lock.display()))?;
        let held = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io::Error::from(errno))
            .doing(|| format!("locking {}", lock.display()))?;
        if path.exists() {
            return Ok(path);
        }
        let making = self.dir.join(format!("{name}.making"));
        let sweep = || match fs::remove_dir_all(&making) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
        sweep()
            .and_then(|()| fs::create_dir(&making))
            .doing(|| format!("making {}", making.display()))?;
        let made = make(&making).and_then(|image| {
            fs::rename(&image, &path).doing(|| format!("moving a disk to {}", path.display()))
        });
        let swept = sweep().doing(|| format!("removing {}", making.display()));
        drop(held);
        made.and(swept)?;
        Ok(path)
    }
}

fn default_dir() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("lcow-uvm/layers")
}
