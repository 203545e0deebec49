//! From a specification to a plan: pure, and the place where all is refused that can be refused by
//! reading. The errors name the member.

mod capabilities;
mod mounts;
mod namespaces;
mod nodes;
mod options;
mod process;
mod settings;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json::At;
use crate::engine::devices::{self, DeviceRule};
use crate::engine::seccomp;
use crate::sys::mountfd::Change;

pub use capabilities::{names as capability_names, Capabilities, COUNT as CAPABILITIES, SYS_ADMIN};
pub use mounts::{Mount, MountKind};
pub use namespaces::{Joined, Namespaces, TIME};
pub use nodes::Node;
pub use options::{Options, READ_ONLY};
pub use process::{Limit, Process, Size, User};
pub use settings::Sysctl;

/// A whole container, ready to be carried out.
#[derive(Debug)]
pub struct Plan {
    pub root: Root,
    pub namespaces: Namespaces,
    pub hostname: String,
    pub domain: String,
    pub mounts: Vec<Mount>,
    /// None when the specification puts a directory of its own at `/dev`.
    pub nodes: Option<Vec<Node>>,
    pub masked: Vec<String>,
    pub read_only: Vec<String>,
    pub sysctls: Vec<Sysctl>,
    pub group: Group,
    pub seccomp: Option<seccomp::Filter>,
    pub personality: Option<u32>,
    pub process: Process,
    /// What runs before the root is entered.
    pub hooks: Vec<Hook>,
    /// What is left out although the specification has it, each a line for the log.
    pub warnings: Vec<String>,
}

#[derive(Debug)]
pub struct Root {
    pub path: PathBuf,
    pub read_only: bool,
    /// Applied when all is mounted; whether to all mounts below, too.
    pub propagation: Option<(Change, bool)>,
}

/// The control group.
#[derive(Debug)]
pub struct Group {
    /// Relative to where the hierarchies are.
    pub path: PathBuf,
    /// `linux.resources` without the device rules; null when there is none.
    pub resources: Value,
    /// All device rules, in their order.
    pub devices: Vec<DeviceRule>,
}

/// A program of the VM (`hooks.prestart`, `hooks.createRuntime`).
#[derive(Debug)]
pub struct Hook {
    /// `hooks.createRuntime[0]`, for errors.
    pub member: String,
    pub path: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    /// Seconds.
    pub limit: Option<u64>,
}

impl Plan {
    /// `bundle` is absolute: relative paths begin there. `id` names the control group of a
    /// specification without one.
    pub fn of(spec: &Value, bundle: &Path, id: &str) -> Result<Self, String> {
        let top = At::document(spec, "");
        let linux = top.member("linux")?;
        let mut warnings = Vec::new();
        let namespaces = Namespaces::of(&linux)?;
        settings::unlabelled(&linux.member("mountLabel")?, "SELinux")?;
        settings::nothing(&linux.member("intelRdt")?, "there is no resctrl in a VM")?;
        for mapping in ["uidMappings", "gidMappings"] {
            settings::nothing(&linux.member(mapping)?, "user namespaces are not made here")?;
        }
        let mounts = mounts::all(&top, bundle)?;
        let nodes = nodes::all(&linux, &mounts)?;
        let seccomp = linux.member("seccomp")?.value().map(seccomp::compile);
        let paths = |name: &'static str| settings::paths(&linux.member(name)?);
        Ok(Self {
            root: root(&top, bundle)?,
            hostname: settings::name(&top.member("hostname")?, &namespaces)?,
            domain: settings::name(&top.member("domainname")?, &namespaces)?,
            nodes,
            masked: paths("maskedPaths")?,
            read_only: paths("readonlyPaths")?,
            sysctls: settings::sysctls(&linux.member("sysctl")?, &namespaces)?,
            group: group(&linux, id)?,
            seccomp: seccomp.transpose()?,
            personality: settings::personality(&linux.member("personality")?)?,
            process: Process::of(&top.member("process")?, &mut warnings)?,
            hooks: hooks(&top.member("hooks")?)?,
            mounts,
            namespaces,
            warnings,
        })
    }
}

fn root(top: &At<'_>, bundle: &Path) -> Result<Root, String> {
    let root = top.member("root")?;
    let path = root.member("path")?;
    if path.text()?.is_empty() {
        return Err(path.refuse("it is missing"));
    }
    let linux = top.member("linux")?;
    let propagation = linux.member("rootfsPropagation")?;
    let mut options = Options::default();
    match propagation.text()? {
        "" => {}
        word => {
            options.add(word)?;
            if options.propagation.len() != 1 {
                let why = format!("{word:?} is none of shared, slave, private, unbindable");
                return Err(propagation.refuse(why));
            }
        }
    }
    Ok(Root {
        path: bundle.join(path.text()?),
        read_only: root.member("readonly")?.flag()?,
        propagation: options
            .propagation
            .pop()
            .zip(options.propagates_below.pop()),
    })
}

fn group(linux: &At<'_>, id: &str) -> Result<Group, String> {
    let path = linux.member("cgroupsPath")?;
    let text = match path.text()? {
        "" => id,
        text => text.trim_start_matches('/'),
    };
    let text = text.trim_end_matches('/');
    if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(path.refuse(format_args!(
            "{text:?} has an empty part, or \".\" or \"..\""
        )));
    }
    let resources = linux.member("resources")?;
    let rules = resources.member("devices")?;
    rules.list().map(drop)?;
    let given = rules.value().and_then(Value::as_array);
    let mut limits = resources.value().cloned().unwrap_or_default();
    if let Some(members) = limits.as_object_mut() {
        members.shift_remove("devices");
    }
    Ok(Group {
        path: PathBuf::from(text),
        resources: limits,
        devices: devices::rules(given.map_or(&[], Vec::as_slice))?,
    })
}

/// The service wrote `createRuntime` for the container's GPU. The host's own hooks would be
/// programs of the host: the service has taken them out. Those of `prestart` come first, as runc
/// has it. What runs at other times is refused, for it would not run.
fn hooks(hooks: &At<'_>) -> Result<Vec<Hook>, String> {
    for other in ["createContainer", "startContainer", "poststart", "poststop"] {
        let why = "only prestart and createRuntime are run here";
        settings::nothing(&hooks.member(other)?, why)?;
    }
    let texts = |at: At<'_>| -> Result<Vec<CString>, String> {
        at.list()?.map(|text| settings::c_string(&text)).collect()
    };
    let mut all = Vec::new();
    for kind in ["prestart", "createRuntime"] {
        for hook in hooks.member(kind)?.list()? {
            let path = hook.member("path")?;
            if !path.text()?.starts_with('/') {
                return Err(path.refuse("it is no absolute path"));
            }
            all.push(Hook {
                member: hook.to_string(),
                path: settings::c_string(&path)?,
                args: texts(hook.member("args")?)?,
                env: texts(hook.member("env")?)?,
                limit: hook.member("timeout")?.number()?,
            });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
