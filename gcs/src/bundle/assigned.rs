//! Devices that the host has assigned to the VM for one container (`windows.devices`, 5.13). Their
//! VMBus instance leads to them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{json, Value};

use super::annotations::GPU_CAPABILITIES;
use super::document::{annotation, list, object, text_at, Object};
use super::{devices, Job};
use crate::error::Failure;
use crate::machine::uevent::{self, Matcher, Uevent};
use crate::storage::{pci, Roots};
use crate::task::SERVICE_PATH;

/// Runs another program with the container's pid put into its arguments.
const HOOK: &str = "generichook";

enum Assigned {
    /// Its device nodes go into the container.
    Function,
    /// Set up by the vendor's tool.
    Gpu,
}

impl Assigned {
    /// None for the kinds that are never sent to a Linux guest.
    fn parse(id_type: &str) -> Option<Self> {
        match id_type {
            "vpci" | "vpci-instance-id" => Some(Self::Function),
            "gpu" => Some(Self::Gpu),
            _ => None,
        }
    }
}

/// Adds what `windows.devices` names. Blocks until the devices are there, at most for the context's
/// `device_limit`.
pub(super) fn add(spec: &mut Object, job: &Job<'_>) -> Result<(), Failure> {
    let given = spec.get("windows").and_then(|w| w.get("devices")).cloned();
    let given = given.as_ref().and_then(Value::as_array);
    let roots = &job.context.roots;
    let deadline = Instant::now() + job.context.device_limit;
    let mut gpus = Vec::new();
    for (index, entry) in given.into_iter().flatten().enumerate() {
        let at = format!("windows.devices[{index}]");
        let id = text_at(entry, &at, "id")?;
        let Some(kind) = Assigned::parse(text_at(entry, &at, "idType")?) else {
            continue;
        };
        let function =
            pci::find_until(roots, id, deadline).map_err(|failure| failure.during(&at))?;
        match kind {
            Assigned::Function => {
                for node in nodes_of(roots, &function, deadline).map_err(|f| f.during(&at))? {
                    devices::add(spec, &node, "rwm")?;
                }
            }
            Assigned::Gpu => {
                let name = function.file_name().unwrap_or_default();
                gpus.push(name.to_string_lossy().into_owned());
            }
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

/// A node may come with an event of any subsystem.
struct Anything;

impl Matcher for Anything {
    fn is_match(&self, _: &Uevent) -> bool {
        true
    }
}

/// The device nodes of the function; waits until there is one.
fn nodes_of(
    roots: &Roots,
    function: &Path,
    deadline: Instant,
) -> Result<Vec<devices::Node>, Failure> {
    let look = || {
        let Ok(function) = function.canonicalize() else {
            return Ok(None);
        };
        let mut nodes = devices::enumerate(&roots.dev)?;
        nodes.retain(|node| {
            let kind = if node.kind == "b" { "block" } else { "char" };
            let link = format!("dev/{kind}/{}:{}", node.major, node.minor);
            let device = roots.sys.join(link).canonicalize();
            device.is_ok_and(|device| device.starts_with(&function))
        });
        Ok((!nodes.is_empty()).then_some(nodes))
    };
    uevent::wait_for(uevent::Socket::subscribe, &Anything, deadline, look)?.ok_or_else(|| {
        Failure::unspecified(format!(
            "no device node of {} appeared: its driver may be missing",
            function.display()
        ))
    })
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
