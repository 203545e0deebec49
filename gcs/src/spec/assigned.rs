//! Devices that the host has handed to the VM for one container (`windows.devices`, 5.13):
//! found by the VMBus instance they came on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{json, Value};

use super::annotations::GPU_CAPABILITIES;
use super::document::{annotation, list, object, text_at, Object};
use super::{devices, Job};
use crate::error::Failure;
use crate::storage::Roots;
use crate::uevent::{self, Matcher, Uevent};

/// Runs another program with the container's pid put into its arguments.
const HOOK: &str = "generichook";

#[derive(Debug, PartialEq, Eq)]
enum Assigned {
    /// Its device nodes go into the container.
    Function(String),
    /// Set up by the vendor's tool.
    Gpu(String),
}

impl Assigned {
    fn parse(entry: &Value, at: &str) -> Result<Option<Self>, Failure> {
        let id = text_at(entry, at, "id")?.to_lowercase();
        let kind: fn(String) -> Self = match text_at(entry, at, "idType")? {
            "vpci" | "vpci-instance-id" => Self::Function,
            "gpu" => Self::Gpu,
            // Never sent to a Linux guest.
            _ => return Ok(None),
        };
        // It becomes part of a path.
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Err(Failure::unspecified(format!(
                "{at}: its id is not the GUID of a VMBus instance"
            )));
        }
        Ok(Some(kind(id)))
    }
}

/// Adds what `windows.devices` names. Blocks until the devices are there, at most until the
/// deadline of the job.
pub(super) fn add(spec: &mut Object, job: &Job<'_>) -> Result<(), Failure> {
    let given = spec
        .get("windows")
        .and_then(|windows| windows.get("devices"));
    let mut assigned = Vec::new();
    for (index, entry) in given
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let at = format!("windows.devices[{index}]");
        assigned.extend(Assigned::parse(entry, &at)?);
    }
    let roots = &job.context.roots;
    let deadline = Instant::now() + job.context.device_limit;
    let mut gpus = Vec::new();
    for device in assigned {
        match device {
            Assigned::Function(id) => {
                let nodes = await_device(&id, deadline, || nodes_of(roots, &id))?;
                for node in nodes {
                    devices::add(spec, &node, "rwm")?;
                }
            }
            Assigned::Gpu(id) => {
                let function = await_device(&id, deadline, || function(&roots.sys, &id))?;
                let name = function.file_name().unwrap_or_default();
                gpus.push(name.to_string_lossy().into_owned());
            }
        }
    }
    if gpus.is_empty() {
        return Ok(());
    }
    let program = find_program(HOOK, std::env::var("PATH").unwrap_or_default().as_str())?;
    let capabilities = annotation(spec, GPU_CAPABILITIES)?.unwrap_or_default();
    let environment: Vec<_> = std::env::vars().map(|(k, v)| format!("{k}={v}")).collect();
    let hook = gpu_hook(&program, capabilities, &gpus, job, environment);
    list(object(spec, "hooks")?, "createRuntime")?.push(hook);
    Ok(())
}

struct Anything;

impl Matcher for Anything {
    fn is_match(&self, _: &Uevent) -> bool {
        true
    }
}

fn await_device<T>(
    id: &str,
    deadline: Instant,
    look: impl Fn() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let found = uevent::wait_for(uevent::Socket::subscribe, &Anything, deadline, look);
    let found = found.map_err(|failure| failure.during(format_args!("assigned device {id}")))?;
    found.ok_or_else(|| {
        Failure::unspecified(format!(
            "assigned device {id}: no PCI function or no device node of it appeared in time"
        ))
    })
}

/// The one entry of a directory that `is_it` picks; none while the directory is not there.
fn entry(directory: &Path, is_it: impl Fn(&str) -> bool) -> Result<Option<PathBuf>, Failure> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| super::made::failed("list", directory, &e))?,
    };
    Ok(entries
        .flatten()
        .find(|entry| entry.file_name().to_str().is_some_and(&is_it))
        .map(|entry| entry.path()))
}

/// The PCI function behind a VMBus instance (7.9):
/// `bus/vmbus/devices/<guid>/pciXXXX:XX/XXXX:XX:...`.
fn function(sys: &Path, id: &str) -> Result<Option<PathBuf>, Failure> {
    let instance = sys.join("bus/vmbus/devices").join(id);
    let Some(bus) = entry(&instance, |name| name.starts_with("pci"))? else {
        return Ok(None);
    };
    let name = bus.file_name().unwrap_or_default().to_string_lossy();
    let address = name.trim_start_matches("pci").to_owned();
    entry(&bus, |name| name.starts_with(&address))
}

/// The device nodes of the function; none as long as there are none.
fn nodes_of(roots: &Roots, id: &str) -> Result<Option<Vec<devices::Node>>, Failure> {
    let Some(function) = function(&roots.sys, id)? else {
        return Ok(None);
    };
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
