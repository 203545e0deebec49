//! What the engine runs as the last step inside the container, in the process that becomes
//! the user's program.
//!
//! Replaces the engine's default, which refuses a program given by its path when there is
//! no PATH, rebuilds the environment from a map (order and duplicates lost) and leaves
//! SIGPIPE ignored.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::unistd::{access, AccessFlags};

use super::{ORDER_FD, REPORT_FD};
use crate::engine::seccomp;
use crate::sys::seccomp::Execution;
use crate::sys::{channel, fds, pidfd};

#[derive(Clone)]
pub(super) struct Program {
    /// Where init says why it could not execute; close-on-exec. `None` for an exec, whose
    /// failure the engine itself reports.
    pub failure: Option<Rc<File>>,
    /// The container's seccomp profile.
    filter: Option<Rc<seccomp::Program>>,
    /// `HOME` as the engine looked it up, used when the environment has none.
    home: Rc<RefCell<Option<String>>>,
}

impl Program {
    pub fn new(failure: Option<Rc<File>>, filter: Option<seccomp::Program>) -> Self {
        Self {
            failure,
            filter: filter.map(Rc::new),
            home: Rc::default(),
        }
    }

    /// Returns only with why it could not.
    fn execute(&self, spec: &Spec) -> Result<Infallible, String> {
        let process = process(spec)?;
        let path = find(process)?;
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|entry| entry.starts_with("HOME=")) {
            if let Some(home) = self.home.borrow().as_deref() {
                env.push(format!("HOME={home}"));
            }
        }
        let env = c_strings(&env)?;
        let args = c_strings(process.args().as_deref().unwrap_or_default())?;
        let c_path = CString::new(path.to_string_lossy().as_bytes())
            .map_err(|_| format!("the path of {} holds a NUL", path.display()))?;
        fds::reset_signals().map_err(|e| format!("reset signals: {e}"))?;
        let execution = Execution::new(&c_path, &args, &env);
        // The last step, so that a profile need not allow any of ours.
        if let Some(filter) = &self.filter {
            filter
                .load()
                .map_err(|e| format!("load the seccomp filter: {e}"))?;
        }
        let errno = execution.begin();
        Err(format!("execute {}: {}", path.display(), errno.desc()))
    }
}

impl Executor for Program {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let named = match self.failure {
            // Init is found by its cgroup.
            Some(_) => Ok(()),
            None => name_to_service(),
        };
        // Init may wait long for its start; the helper's end must be seen before that.
        fds::close_copy(ORDER_FD);
        fds::close_copy(REPORT_FD);
        named
            .and_then(|()| process(spec))
            .and_then(find)
            .map(drop)
            .map_err(ExecutorValidationError::ArgValidationError)
    }

    fn setup_envs(&self, mut envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        *self.home.borrow_mut() = envs.remove("HOME");
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let why = match self.execute(spec) {
            Ok(never) => match never {},
            Err(why) => why,
        };
        let Some(failure) = &self.failure else {
            return Err(ExecutorError::Other(why));
        };
        // The host learns it by the answer to its start request, the log by stderr.
        let told = failure.as_ref().write_all(why.as_bytes());
        eprintln!("{why}");
        // 126 as a shell would end.
        std::process::exit(if told.is_ok() { 126 } else { 255 });
    }
}

/// Gives the service a pidfd of this process, with a blank for a message. From here on it runs
/// also when the engine is killed before it could report: then the service ends it. One that
/// the service does not hear of goes no further.
fn name_to_service() -> Result<(), String> {
    let own = pidfd::open(nix::unistd::getpid().as_raw())
        .map_err(|e| format!("open a pidfd of the new process: {e}"))?
        .ok_or("the new process is not there")?;
    fds::with_copy(REPORT_FD, |service| {
        channel::send(service, b" ", Some(own.as_fd()))
    })
    .map_err(|e| format!("name the new process to the service: {}", e.desc()))
}

fn process(spec: &Spec) -> Result<&Process, String> {
    spec.process()
        .as_ref()
        .ok_or_else(|| "the spec has no process".into())
}

/// The file to execute: by its path, else through the process's own PATH.
fn find(process: &Process) -> Result<PathBuf, String> {
    let name = process
        .args()
        .as_ref()
        .and_then(|args| args.first())
        .filter(|name| !name.is_empty())
        .ok_or("process.args names no program")?;
    if name.contains('/') {
        let path = process.cwd().join(name);
        return usable(&path).map(|()| path);
    }
    let env = process.env().as_deref().unwrap_or_default();
    let Some(search) = env.iter().find_map(|entry| entry.strip_prefix("PATH=")) else {
        return Err(format!(
            "program {name:?} not found: the environment of the process has no PATH"
        ));
    };
    let mut unusable = None;
    for dir in search.split(':') {
        // An empty part is the working directory (environ(7)).
        let path = process.cwd().join(dir).join(name);
        match usable(&path) {
            Ok(()) => return Ok(path),
            Err(why) if path.exists() => unusable = Some(why),
            Err(_) => {}
        }
    }
    Err(unusable.unwrap_or_else(|| format!("program {name:?} not found in PATH {search:?}")))
}

fn usable(path: &Path) -> Result<(), String> {
    let meta = path
        .metadata()
        .map_err(|e| format!("program {:?} not found: {e}", path.display().to_string()))?;
    if meta.is_dir() {
        return Err(format!(
            "program {:?} is a directory",
            path.display().to_string()
        ));
    }
    access(path, AccessFlags::X_OK).map_err(|e| {
        format!(
            "program {:?} cannot be executed: {}",
            path.display().to_string(),
            e.desc()
        )
    })
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>, String> {
    texts
        .iter()
        .map(|text| {
            CString::new(text.as_str())
                .map_err(|_| "an argument or environment entry holds a NUL".into())
        })
        .collect()
}
