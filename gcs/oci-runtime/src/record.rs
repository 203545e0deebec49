//! What is kept of a container between commands: a directory of its id below `--root`.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context, Result};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

const STATE: &str = "state.json";
/// The spec as it was when the container was made.
const SPEC: &str = "config.json";
/// Init waits at it; it goes when the container is started.
const FIFO: &str = "start";
/// Far above what a start takes.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub bundle: PathBuf,
    pub pid: i32,
    /// When the process began, by `/proc/PID/stat`: pids come again.
    began: String,
    #[serde(skip)]
    dir: PathBuf,
}

/// A state directory that is being filled; it goes again when it is not kept.
pub struct Draft {
    dir: PathBuf,
    kept: bool,
}

impl Draft {
    pub fn new(root: &Path, id: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id == "." || id == ".." || !id.chars().all(plain) {
            bail!("invalid container ID {id:?}: letters, digits and _ + - . make one");
        }
        fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
        let dir = root.join(id);
        match fs::create_dir(&dir) {
            Ok(()) => Ok(Self { dir, kept: false }),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                bail!("container with id {id} exists already")
            }
            Err(e) => Err(anyhow!(e).context(format!("make {}", dir.display()))),
        }
    }

    /// Where init is to wait. Open both ways, or opening would wait for the other side.
    pub fn fifo(&self) -> Result<File> {
        let path = self.dir.join(FIFO);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
            .with_context(|| format!("make {}", path.display()))?;
        let mut options = OpenOptions::new();
        Ok(options.read(true).write(true).open(&path)?)
    }

    pub fn keep(mut self, id: &str, bundle: &Path, pid: i32, spec: &Value) -> Result<Record> {
        let record = Record {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            pid,
            began: began(pid).context("the container's process has ended")?,
            dir: self.dir.clone(),
        };
        fs::write(self.dir.join(SPEC), serde_json::to_vec(spec)?)?;
        fs::write(self.dir.join(STATE), serde_json::to_vec(&record)?)?;
        self.kept = true;
        Ok(record)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            if let Err(e) = fs::remove_dir_all(&self.dir) {
                eprintln!("oci-runtime: remove {}: {e}", self.dir.display());
            }
        }
    }
}

/// The start time in clock ticks, unless the process has ended.
fn began(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything: state is the third field, the time the 22nd.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (state != "Z" && state != "X").then_some(())?;
    fields.nth(18).map(str::to_owned)
}

impl Record {
    pub fn load(root: &Path, id: &str) -> Result<Self> {
        let dir = root.join(id);
        // The words that managers look for.
        let text =
            fs::read(dir.join(STATE)).map_err(|_| anyhow!("container {id} does not exist"))?;
        let record: Self = serde_json::from_slice(&text)?;
        Ok(Self { dir, ..record })
    }

    pub fn all(root: &Path) -> Vec<Self> {
        let names = fs::read_dir(root).into_iter().flatten().flatten();
        let ids = names.filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<_> = ids.filter_map(|id| Self::load(root, &id).ok()).collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all
    }

    pub fn spec(&self) -> Result<Value> {
        let text = fs::read(self.dir.join(SPEC))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// created, running or stopped (runtime-spec, "State").
    pub fn status(&self) -> &'static str {
        if began(self.pid).as_ref() != Some(&self.began) {
            "stopped"
        } else if self.dir.join(FIFO).exists() {
            "created"
        } else {
            "running"
        }
    }

    pub fn state(&self) -> Value {
        let status = self.status();
        let pid = if status == "stopped" { 0 } else { self.pid };
        let annotations = self.spec().ok().map(|spec| spec["annotations"].clone());
        json!({"ociVersion": "1.2.0", "id": self.id, "status": status, "pid": pid,
            "bundle": self.bundle, "annotations": annotations.filter(Value::is_object).unwrap_or(json!({}))})
    }

    /// Lets init execute its program.
    pub fn start(&self) -> Result<()> {
        if self.status() != "created" {
            bail!("cannot start a container in the {} state", self.status());
        }
        let path = self.dir.join(FIFO);
        let mut to = OpenOptions::new()
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        to.write_all(b"s")?;
        let begun = Instant::now();
        let mut from = loop {
            // Init has taken the byte when the FIFO is empty; only then may this side read.
            if !readable(&to)? {
                let mut options = OpenOptions::new();
                break options
                    .read(true)
                    .custom_flags(nix::libc::O_NONBLOCK)
                    .open(&path)?;
            }
            if begun.elapsed() > LIMIT {
                bail!("the container's init does not take its start");
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        drop(to);
        fs::remove_file(&path)?;
        // It ends without a word when the program has been executed.
        let mut why = String::new();
        loop {
            match from.read_to_string(&mut why) {
                Ok(_) if why.is_empty() => return Ok(()),
                Ok(_) => bail!("{why}"),
                Err(e) if e.kind() == ErrorKind::WouldBlock && begun.elapsed() < LIMIT => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    pub fn forget(&self) -> Result<()> {
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))
    }
}

/// Whether the FIFO holds bytes that init has not read.
fn readable(fifo: &File) -> Result<bool> {
    use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fifo));
    let mut options = OpenOptions::new();
    let look = options
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(link)?;
    let mut polled = [PollFd::new(look.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO)?;
    Ok(polled[0]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLIN)))
}
