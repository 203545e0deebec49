//! A stand-in for PID 1: makes containers in tasks as PID 1 does, and reaps what they leave behind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use gcs::engine::devices::Programs;
use gcs::engine::{self, Bare, Container, Ends, Plan, Process, Told};
use gcs::error::Failure;
use gcs::prot::stats::Metrics;
use gcs::prot::HResult;
use gcs::sys::process::fork_child;
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use serde_json::{json, Value};

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub v2: bool,
    containers: RefCell<BTreeMap<String, Record>>,
    bare: RefCell<Option<Bare>>,
}

/// What PID 1 knows of a container.
struct Record {
    container: Container,
    process: OwnedFd,
    control: OwnedFd,
    started: bool,
}

/// The far ends of a container's standard streams.
pub struct Streams {
    pub stdin: Option<File>,
    pub stdout: File,
    pub stderr: File,
}

pub struct Made {
    pub pid: i32,
    pub streams: Streams,
    pub master: Option<File>,
}

impl Rig {
    pub fn new(v2: bool) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            v2,
            containers: RefCell::default(),
            bare: RefCell::default(),
        }
    }

    /// A bundle with a busybox root, its spec changed by `change`.
    pub fn bundle(&self, id: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.dir.path().join("c").join(id);
        let rootfs = bundle.join("rootfs");
        for dir in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "ls", "id", "env", "sleep", "true", "mount", "tty", "stty", "readlink",
            "chroot", "grep", "echo", "mkdir", "mknod", "dd", "kill", "pwd", "truncate", "touch",
            "chmod", "linux32", "linux64", "unshare", "nsenter", "date", "insmod", "dmesg", "find",
            "wc", "head", "cut", "rm", "umount", "hostname", "nice",
        ] {
            symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        let mut spec = spec(id, args);
        change(&mut spec);
        fs::write(
            bundle.join("config.json"),
            serde_json::to_vec(&spec).unwrap(),
        )
        .unwrap();
        bundle
    }

    pub fn create(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<Made, Failure> {
        let bundle = self.bundle(id, args, change);
        self.create_from(id, &bundle)
    }

    /// Of the bundle as it is.
    pub fn create_from(&self, id: &str, bundle: &Path) -> Result<Made, Failure> {
        if self.containers.borrow().contains_key(id) {
            return Err(Failure::new(
                HResult::SYSTEM_ALREADY_EXISTS,
                "the id is in use",
            ));
        }
        let text = fs::read(bundle.join("config.json")).unwrap();
        let spec: Value = serde_json::from_slice(&text).unwrap();
        let plan = Plan::of(&spec, bundle, id).map_err(Failure::unspecified)?;
        let state =
            json!({"id": id, "bundle": bundle, "status": "creating", "ociVersion": "1.2.0"});
        let (control, theirs) = pair(SockType::Stream);
        let bare = self.bare.borrow();
        let also: Vec<_> = bare.iter().map(AsFd::as_fd).collect();
        let task = Task::start(theirs.as_fd(), &also, |ends| {
            engine::create(&plan, bare.as_ref(), &Programs::default(), &state, ends)
        });
        drop((theirs, bare));
        let made = task.wait();
        let group = plan.group.path.clone();
        let made = made.and_then(|(told, streams)| {
            if told.ready {
                return Ok((told, streams));
            }
            Err(Failure::unspecified(
                "the new process ended and said nothing",
            ))
        });
        let (told, streams) = made.inspect_err(|_| engine::group(&group).destroy().unwrap())?;
        for warning in &told.warnings {
            println!("    {warning}");
        }
        if let Some(bare) = told.bare {
            self.bare.replace(Some(Bare::from(bare)));
        }
        let record = Record {
            container: told.container.unwrap(),
            process: told.process.unwrap(),
            control,
            started: false,
        };
        self.containers.borrow_mut().insert(id.into(), record);
        Ok(Made {
            pid: told.pid.unwrap(),
            streams,
            master: told.terminal.map(File::from),
        })
    }

    pub fn exec(&self, id: &str, process: Value) -> Result<Made, Failure> {
        self.spawn_exec(id, process)?.wait()
    }

    pub fn spawn_exec(&self, id: &str, process: Value) -> Result<Running, Failure> {
        let containers = self.containers.borrow();
        let record = containers
            .get(id)
            .ok_or_else(|| Failure::new(HResult::SYSTEM_NOT_FOUND, "there is no such container"))?;
        let process = Process::parse(&process).map_err(Failure::unspecified)?;
        let also: Vec<_> = record
            .container
            .descriptors()
            .chain([record.process.as_fd()])
            .collect();
        let (control, theirs) = pair(SockType::Stream);
        let task = Task::start(theirs.as_fd(), &also, |ends| {
            engine::exec(&process, &record.container, &record.process, ends)
        });
        Ok(Running(task, control))
    }

    pub fn start(&self, id: &str) -> Result<(), Failure> {
        let mut containers = self.containers.borrow_mut();
        let missing = || Failure::new(HResult::SYSTEM_NOT_FOUND, "there is no such container");
        let record = containers.get_mut(id).ok_or_else(missing)?;
        if std::mem::replace(&mut record.started, true) {
            return Err(Failure::new(
                HResult::INVALID_STATE,
                "it was started before",
            ));
        }
        start(&record.control)
    }

    fn path(&self, id: &str) -> PathBuf {
        Path::new("containers").join(id)
    }

    pub fn signal_all(&self, id: &str, signal: i32) -> Result<(), Failure> {
        engine::group(&self.path(id)).signal_all(signal)
    }

    pub fn pids(&self, id: &str) -> Result<Vec<i32>, Failure> {
        engine::group(&self.path(id)).pids()
    }

    pub fn constrain(&self, id: &str, resources: &Value) -> Result<(), Failure> {
        engine::group(&self.path(id)).constrain(resources)
    }

    pub fn statistics(&self, id: &str) -> Result<Metrics, Failure> {
        engine::group(&self.path(id)).statistics()
    }

    /// Ends what is left of it and forgets it.
    pub fn delete(&self, id: &str) -> Result<(), Failure> {
        let done = engine::group(&self.path(id)).destroy();
        self.containers.borrow_mut().remove(id);
        done
    }

    /// Create, start, read to the end, wait, delete: (stdout, stderr, exit code).
    pub fn run(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> (String, String, i32) {
        let made = self.create(id, args, change).unwrap();
        self.start(id).unwrap();
        let seen = made.finish();
        self.delete(id).unwrap();
        self.assert_clean(id);
        seen
    }

    /// Nothing of the container is left: cgroup, mounts.
    pub fn assert_clean(&self, id: &str) {
        let find = Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*/containers/{id}")])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&find.stdout),
            "",
            "cgroup of {id} is left"
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().join("c");
        assert!(
            !mounts.contains(dir.to_str().unwrap()),
            "mounts are left: {mounts}"
        );
    }
}

/// As PID 1: one byte, and then the end of the socket or the reason.
fn start(control: &OwnedFd) -> Result<(), Failure> {
    let mut control = File::from(control.try_clone().unwrap());
    control.write_all(b"s").unwrap();
    let mut why = Vec::new();
    control.read_to_end(&mut why).unwrap();
    match why.is_empty() {
        true => Ok(()),
        false => Err(engine::read_reason(&why)),
    }
}

fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// A task that makes a process.
struct Task {
    pid: Pid,
    channel: OwnedFd,
    streams: Streams,
}

impl Task {
    fn start(
        control: BorrowedFd<'_>,
        also: &[BorrowedFd<'_>],
        job: impl FnOnce(Ends<'_>) -> Result<(), Failure>,
    ) -> Self {
        let (channel, theirs) = pair(SockType::SeqPacket);
        let (stdin_r, stdin) = std::io::pipe().unwrap();
        let (stdout, stdout_w) = std::io::pipe().unwrap();
        let (stderr, stderr_w) = std::io::pipe().unwrap();
        let stdio = [stdin_r.as_fd(), stdout_w.as_fd(), stderr_w.as_fd()];
        let ends = Ends {
            stdio,
            channel: theirs.as_fd(),
            control,
        };
        let keep = stdio.into_iter().chain([theirs.as_fd(), control]);
        let keep: Vec<_> = keep.chain(also.iter().copied()).collect();
        let pid = fork_child(&keep, || {
            job(ends).map_or_else(
                |failure| {
                    engine::report_failure(ends.channel, &failure);
                    1
                },
                |()| 0,
            )
        });
        Self {
            pid: pid.unwrap(),
            channel,
            streams: Streams {
                stdin: Some(OwnedFd::from(stdin).into()),
                stdout: OwnedFd::from(stdout).into(),
                stderr: OwnedFd::from(stderr).into(),
            },
        }
    }

    fn wait(self) -> Result<(Told, Streams), Failure> {
        let (mut text, mut fds) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; 64 * 1024];
        loop {
            gcs::sys::pidfd::readable(&self.channel, std::time::Duration::from_secs(60)).unwrap();
            match gcs::sys::channel::receive(self.channel.as_fd(), &mut buffer, &mut fds).unwrap() {
                0 => break,
                count => text.extend_from_slice(&buffer[..count]),
            }
        }
        reap(self.pid.as_raw());
        let told = Told::read(&text, fds)?;
        match told.failure {
            Some(failure) => {
                // As PID 1: what was named dies.
                if let Some((pid, process)) = told.pid.zip(told.process) {
                    gcs::sys::pidfd::signal(process, libc::SIGKILL).ok();
                    reap(pid);
                }
                Err(failure)
            }
            None => Ok((told, self.streams)),
        }
    }
}

/// A further process being made.
pub struct Running(Task, OwnedFd);

impl Running {
    pub fn wait(self) -> Result<Made, Failure> {
        let (told, streams) = self.0.wait()?;
        assert!(told.ready);
        start(&self.1)?;
        Ok(Made {
            pid: told.pid.unwrap(),
            streams,
            master: told.terminal.map(File::from),
        })
    }
}

impl Made {
    pub fn finish(mut self) -> (String, String, i32) {
        drop(self.streams.stdin.take());
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(mut master) = self.master {
            // A pty ends with EIO.
            let mut bytes = Vec::new();
            drop(master.read_to_end(&mut bytes));
            out = String::from_utf8_lossy(&bytes).into_owned();
        } else {
            self.streams.stdout.read_to_string(&mut out).unwrap();
            self.streams.stderr.read_to_string(&mut err).unwrap();
        }
        (out, err, reap(self.pid))
    }
}

/// Exit code as the bridge reports it.
pub fn reap(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

/// Collects what failed creates left to us; returns how many.
pub fn reap_strays() -> usize {
    let mut count = 0;
    while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
        waitpid(None, Some(WaitPidFlag::WNOHANG))
    {
        count += 1;
    }
    count
}

/// Collects what failed execs left, as soon as it ends: the kernel keeps the init of a pid
/// namespace until then.
pub fn reap_all_but(kept: i32) {
    let begun = std::time::Instant::now();
    let me = std::process::id();
    let children = || fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
    while children().trim() != kept.to_string() {
        assert!(
            begun.elapsed().as_secs() < 30,
            "children are left: {}",
            children()
        );
        reap_strays();
        std::thread::yield_now();
    }
}

const CAPS: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A spec as containerd makes it and hcsshim sends it.
pub fn spec(id: &str, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "noNewPrivileges": false,
            "capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "cgroupsPath": format!("/containers/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    })
}

/// As the host sends an exec.
pub fn process(args: &[&str]) -> Value {
    json!({"user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/"})
}
