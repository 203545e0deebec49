//! Devices that the host has assigned to the VM for one container (`windows.devices`, 5.13). Their
//! VMBus instance leads to them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{json, Value};

use super::annotations::GPU_CAPABILITIES;
use super::document::{annotation, list, object, text_at, Object};
use super::{devices, Job};
use crate::error::Failure;
use crate::machine::uevent::{Device, Matcher, Uevent};
use crate::storage::pci::ExpectedFunction;
use crate::storage::Roots;
use crate::task::SERVICE_PATH;

/// Runs another program with the container's pid put into its arguments.
const HOOK: &str = "generichook";

#[derive(Debug, Clone, Copy)]
enum AssignedKind {
    /// Its device nodes go into the container.
    Function,
    /// Set up by the vendor's tool.
    Gpu,
}

impl AssignedKind {
    /// None for the kinds that are never sent to a Linux guest.
    fn parse(id_type: &str) -> Option<Self> {
        match id_type {
            "vpci" | "vpci-instance-id" => Some(Self::Function),
            "gpu" => Some(Self::Gpu),
            _ => None,
        }
    }
}

/// A device of `windows.devices`, which may not have appeared yet.
#[derive(Debug, Clone)]
pub struct AssignedDevice {
    /// The member that names it.
    at: String,
    kind: AssignedKind,
    function: ExpectedFunction,
    roots: Roots,
}

/// The function of a device that is there, and the device nodes of it that the container gets.
type FoundDevice = (PathBuf, Vec<devices::Node>);

/// What `windows.devices` names.
///
/// # Errors
/// An entry without an id, or with one that is none.
pub fn assigned_devices(spec: &Value, roots: &Roots) -> Result<Vec<AssignedDevice>, Failure> {
    let given = spec.get("windows").and_then(|w| w.get("devices"));
    let given = given.and_then(Value::as_array);
    let mut all = Vec::new();
    for (index, entry) in given.into_iter().flatten().enumerate() {
        let at = format!("windows.devices[{index}]");
        let id = text_at(entry, &at, "id")?;
        if let Some(kind) = AssignedKind::parse(text_at(entry, &at, "idType")?) {
            let function = ExpectedFunction::new(roots, id);
            all.push(AssignedDevice {
                function: function.map_err(|failure| failure.during(&at))?,
                at,
                kind,
                roots: roots.clone(),
            });
        }
    }
    Ok(all)
}

impl AssignedDevice {
    /// Whether it is there by now, with all that the container gets of it.
    pub fn is_there(&self) -> Result<bool, Failure> {
        self.look().map(|found| found.is_some())
    }

    fn look(&self) -> Result<Option<FoundDevice>, Failure> {
        let found = || {
            let Some(function) = self.function.look()? else {
                return Ok(None);
            };
            let nodes = match self.kind {
                AssignedKind::Function => nodes_of(&self.roots, &function)?,
                AssignedKind::Gpu => Vec::new(),
            };
            let has_nodes = matches!(self.kind, AssignedKind::Gpu) || !nodes.is_empty();
            Ok(has_nodes.then_some((function, nodes)))
        };
        found().map_err(|failure: Failure| failure.during(&self.at))
    }
}

/// A node may come with an event of any subsystem.
impl Matcher for AssignedDevice {
    fn is_match(&self, _: &Uevent) -> bool {
        true
    }
}

impl Device for AssignedDevice {
    fn is_announced(&self) -> bool {
        self.function.is_announced()
    }

    fn missing(&self, waited: Duration) -> Option<Failure> {
        if matches!(self.look(), Ok(Some(_))) {
            return None;
        }
        let failure = self.function.missing(waited).unwrap_or_else(|| {
            Failure::unspecified(format!(
                "PCI device {} has no device node: its driver may be missing",
                self.function.instance()
            ))
        });
        Some(failure.during(&self.at))
    }
}

/// Adds what `windows.devices` names, which must be there.
pub(super) fn add(spec: &mut Object, job: &Job<'_>) -> Result<(), Failure> {
    let windows = spec.get("windows").cloned().unwrap_or_default();
    let assigned = assigned_devices(&json!({ "windows": windows }), &job.context.roots)?;
    let mut gpus = Vec::new();
    for device in assigned {
        let Some((function, nodes)) = device.look()? else {
            let missing = device.missing(Duration::ZERO);
            return Err(missing.unwrap_or_else(|| Failure::unspecified("a device came too late")));
        };
        for node in nodes {
            devices::add(spec, &node, "rwm")?;
        }
        if let AssignedKind::Gpu = device.kind {
            let name = function.file_name().unwrap_or_default();
            gpus.push(name.to_string_lossy().into_owned());
        }
    }
    if gpus.is_empty() {
        return Ok(());
    }
    let mut environment: Vec<_> = std::env::vars().map(|(k, v)| format!("{k}={v}")).collect();
    // PID 1 was started without a PATH.
    if !environment.iter().any(|entry| entry.starts_with("PATH=")) {
        environment.push(SERVICE_PATH.into());
    }
    let search = environment
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="));
    let program = find_program(HOOK, search.unwrap_or_default())?;
    let capabilities = annotation(spec, GPU_CAPABILITIES)?.unwrap_or_default();
    let hook = gpu_hook(&program, capabilities, &gpus, job, environment);
    list(object(spec, "hooks")?, "createRuntime")?.push(hook);
    Ok(())
}

/// The device nodes of the function that there are by now.
fn nodes_of(roots: &Roots, function: &Path) -> Result<Vec<devices::Node>, Failure> {
    let Ok(function) = function.canonicalize() else {
        return Ok(Vec::new());
    };
    let mut nodes = devices::enumerate(&roots.dev)?;
    nodes.retain(|node| {
        let kind = if node.kind == "b" { "block" } else { "char" };
        let link = format!("dev/{kind}/{}:{}", node.major, node.minor);
        let device = roots.sys.join(link).canonicalize();
        device.is_ok_and(|device| device.starts_with(&function))
    });
    Ok(nodes)
}

fn find_program(name: &str, search: &str) -> Result<PathBuf, Failure> {
    search
        .split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Failure::unspecified(format!(
                "a GPU was assigned, but this image has no {name} to set it up with"
            ))
        })
}

/// The hook that has the vendor's tool put the driver's files into the container.
fn gpu_hook(
    program: &Path,
    capabilities: &str,
    gpus: &[String],
    job: &Job<'_>,
    mut environment: Vec<String>,
) -> Value {
    let program = program.to_string_lossy();
    let log = job.bundle.join("nvidia-container.log");
    let log = log.to_string_lossy();
    let mut args = vec![
        program.to_string(),
        "nvidia-container-cli".into(),
        format!("--debug={log}"),
        "--load-kmods".into(),
        "--no-pivot".into(),
        "configure".into(),
        "--ldconfig=@/sbin/ldconfig".into(),
    ];
    let capabilities = capabilities.split(',').map(str::trim);
    args.extend(
        capabilities
            .filter(|name| !name.is_empty())
            .map(|name| format!("--{name}")),
    );
    args.extend(gpus.iter().map(|gpu| format!("--device={gpu}")));
    args.extend([
        "--no-cgroups".into(),
        "--pid={{pid}}".into(),
        job.root.to_string_lossy().into_owned(),
    ]);
    environment.push("NVC_INSECURE_MODE=1".into());
    environment.push(format!("GENERIC_HOOK_LOG_DEBUG_FILE={log}"));
    json!({"path": program, "args": args, "env": environment})
}

#[cfg(test)]
#[path = "assigned_tests.rs"]
mod tests;
