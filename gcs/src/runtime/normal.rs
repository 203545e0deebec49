//! From the spec of the container to what the engine is given: where the engine's defaults
//! differ from what runtimes agree on, the spec is made explicit. Pure.

use std::path::Path;

use serde_json::{json, Map, Value};

use super::devices;
use crate::engine::seccomp::{self, Program};

/// Where the control groups are, and the hierarchies of v1 in which a container has one.
pub(super) struct Cgroups<'a> {
    pub mount: &'a Path,
    pub hierarchies: &'a [String],
}

/// The engine's configuration for a container whose spec is `spec` and whose bundle is
/// `bundle` (absolute).
pub(super) fn container(
    spec: &Value,
    bundle: &Path,
    cgroups: &Cgroups<'_>,
) -> Result<Value, String> {
    let mut spec = spec.clone();
    let top = spec.as_object_mut().ok_or("the spec is no JSON object")?;
    // The service wrote it: the host's own are gone, one may be for the container's GPU.
    if let Some(hooks) = top.remove("hooks") {
        if let Some(ours) = hooks.get("createRuntime") {
            top.insert("hooks".into(), json!({"createRuntime": ours}));
        }
    }
    if !top.get("ociVersion").is_some_and(Value::is_string) {
        top.insert("ociVersion".into(), "1.0.2".into());
    }

    let root = object(top, "root")?;
    let path = root
        .get("path")
        .and_then(Value::as_str)
        .ok_or("root.path is missing")?;
    let path = bundle.join(path);
    root.insert("path".into(), path.to_string_lossy().into_owned().into());

    device_directory(top)?;
    own_cgroups(top, cgroups)?;
    let process = object(top, "process")?;
    defaults(process);
    unlabelled(process)?;
    // No mention of capabilities means none, not all.
    process
        .entry("capabilities")
        .or_insert_with(no_capabilities);
    let own = process["capabilities"].clone();

    let linux = object(top, "linux")?;
    let profile = linux.remove("seccomp").unwrap_or_default();
    // The engine would not enforce it.
    compiled(&profile)?;
    // "rslave" and "slave" are one: the engine only ever works recursively.
    if let Some(Value::String(propagation)) = linux.get_mut("rootfsPropagation") {
        if let Some(plain) = propagation.strip_prefix('r') {
            *propagation = plain.to_owned();
        } else if propagation.is_empty() {
            linux.remove("rootfsPropagation");
        }
    }
    let resources = object(linux, "resources")?;
    let given = match resources.get("devices") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(rules)) => rules.clone(),
        Some(_) => return Err("linux.resources.devices is no list".into()),
    };
    let rules = devices::complete(&given);
    devices::parse(&rules)?;
    resources.insert("devices".into(), rules.into());

    let process = object(top, "process")?;
    keep_filtering(process, &profile);
    top.insert(
        OURS.into(),
        json!({"seccomp": profile, "capabilities": own}),
    );
    Ok(spec)
}

/// Member of the configuration that the engine does not read: the seccomp profile, and the
/// capabilities of the spec.
const OURS: &str = "gcs";

/// The seccomp profile of the container of engine configuration `config`; null without one.
fn profile(config: &Value) -> &Value {
    &config[OURS]["seccomp"]
}

/// That profile compiled.
#[cfg(feature = "engine")]
pub(super) fn filter(config: &Value) -> Result<Option<Program>, String> {
    compiled(profile(config))
}

fn compiled(profile: &Value) -> Result<Option<Program>, String> {
    (!profile.is_null())
        .then(|| seccomp::compile(profile))
        .transpose()
}

/// Without `no_new_privs` only CAP_SYS_ADMIN may load a filter: the process keeps it until its
/// `execve`, by which it has again what the bounding, inheritable and ambient sets give
/// (capabilities(7)); they are those of the spec.
fn keep_filtering(process: &mut Map<String, Value>, seccomp: &Value) {
    if seccomp.is_null() || process.get("noNewPrivileges").is_some_and(|v| v == true) {
        return;
    }
    for set in ["effective", "permitted"] {
        let set = &mut process["capabilities"][set];
        if !set.is_array() {
            *set = json!([]);
        }
        if let Some(names) = set.as_array_mut() {
            names.push("CAP_SYS_ADMIN".into());
        }
    }
}

/// A process to run in the container of engine configuration `config`: what it leaves out
/// comes from the container's own process, where the engine would invent something else.
pub(super) fn exec(process: &Value, config: &Value) -> Result<Value, String> {
    let mut process = process.clone();
    let fields = process
        .as_object_mut()
        .ok_or("the process is no JSON object")?;
    for (name, own) in [
        ("capabilities", &config[OURS]["capabilities"]),
        ("oomScoreAdj", &config["process"]["oomScoreAdj"]),
    ] {
        if fields.get(name).is_none_or(Value::is_null) {
            fields.insert(name.into(), own.clone());
        }
    }
    defaults(fields);
    unlabelled(fields)?;
    keep_filtering(fields, profile(config));
    Ok(process)
}

/// A root without a mount at `/dev` gets the usual one: the engine makes its nodes and links
/// there, and would fail over those that a root has already, or that is read-only.
fn device_directory(top: &mut Map<String, Value>) -> Result<(), String> {
    let mounts = top.entry("mounts").or_insert(Value::Null);
    if mounts.is_null() {
        *mounts = json!([]);
    }
    let mounts = mounts.as_array_mut().ok_or("mounts is no list")?;
    let is_dev = |mount: &Value| {
        let path = mount["destination"].as_str().unwrap_or_default();
        let path = Path::new("/").join(path);
        path.components().eq(Path::new("/dev").components())
    };
    if !mounts.iter().any(is_dev) {
        let options = ["nosuid", "strictatime", "mode=755", "size=65536k"];
        mounts.insert(
            0,
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": options}),
        );
    }
    Ok(())
}

/// In v1 a container sees its own group of each hierarchy, read-only when its spec says so. The
/// engine would give it all of them to write.
fn own_cgroups(top: &mut Map<String, Value>, cgroups: &Cgroups<'_>) -> Result<(), String> {
    if cgroups.hierarchies.is_empty() {
        return Ok(());
    }
    let linux = object(top, "linux")?;
    let own = linux.get("cgroupsPath").and_then(Value::as_str);
    let own = own.unwrap_or_default().trim_start_matches('/').to_owned();
    let mut read_only = Vec::new();
    let Some(mounts) = top.get_mut("mounts").and_then(Value::as_array_mut) else {
        return Ok(());
    };
    let mut all = Vec::with_capacity(mounts.len());
    for mount in mounts.drain(..) {
        if mount["type"] != "cgroup" {
            all.push(mount);
            continue;
        }
        let place = Path::new("/").join(mount["destination"].as_str().unwrap_or_default());
        let options = mount["options"].as_array().cloned().unwrap_or_default();
        let access = if options.iter().any(|option| option == "ro") {
            read_only.push(Value::from(place.to_string_lossy()));
            "ro"
        } else {
            "rw"
        };
        all.push(json!({
            "destination": place, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "nodev", "mode=755"],
        }));
        all.extend(cgroups.hierarchies.iter().map(|hierarchy| {
            json!({
                "destination": place.join(hierarchy), "type": "bind",
                "source": cgroups.mount.join(hierarchy).join(&own),
                "options": ["bind", "nosuid", "noexec", "nodev", access],
            })
        }));
    }
    *mounts = all;
    // What holds the hierarchies, once they are in it.
    let paths = object(top, "linux")?
        .entry("readonlyPaths")
        .or_insert(Value::Null);
    if paths.is_null() {
        *paths = json!([]);
    }
    let paths = paths
        .as_array_mut()
        .ok_or("linux.readonlyPaths is no list")?;
    paths.extend(read_only);
    Ok(())
}

/// The kernel has neither of the modules that would enforce a label.
fn unlabelled(process: &mut Map<String, Value>) -> Result<(), String> {
    for (name, module) in [("apparmorProfile", "AppArmor"), ("selinuxLabel", "SELinux")] {
        match process.remove(name) {
            None | Some(Value::Null) => {}
            Some(label) if label == "" => {}
            Some(label) => {
                return Err(format!(
                    "process.{name} is {label}: the kernel of this guest has no {module}"
                ))
            }
        }
    }
    Ok(())
}

fn defaults(process: &mut Map<String, Value>) {
    // Else the helper's own is inherited, which the OOM killer never takes.
    if process.get("oomScoreAdj").is_none_or(Value::is_null) {
        process.insert("oomScoreAdj".into(), 0.into());
    }
    let empty = |v: Option<&Value>| v.is_none_or(|v| v.is_null() || v == "");
    if empty(process.get("cwd")) {
        process.insert("cwd".into(), "/".into());
    }
    let user = process.entry("user").or_insert(Value::Null);
    if user.is_null() {
        *user = json!({});
    }
    if let Some(user) = user.as_object_mut() {
        for name in ["uid", "gid"] {
            user.entry(name).or_insert_with(|| 0.into());
        }
    }
    if process.get("capabilities").is_some_and(Value::is_null) {
        process.insert("capabilities".into(), no_capabilities());
    }
}

fn no_capabilities() -> Value {
    json!({"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []})
}

/// The object member `name`, made when it is missing or null.
fn object<'a>(
    of: &'a mut Map<String, Value>,
    name: &str,
) -> Result<&'a mut Map<String, Value>, String> {
    let value = of.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value
        .as_object_mut()
        .ok_or_else(|| format!("{name} is no object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(spec: &Value, bundle: &Path) -> Result<Value, String> {
        let cgroups = Cgroups {
            mount: Path::new("/sys/fs/cgroup"),
            hierarchies: &[],
        };
        super::container(spec, bundle, &cgroups)
    }

    #[test]
    fn what_is_left_out_is_made_explicit() {
        let spec = json!({
            "hooks": {"poststop": []}, "root": {"path": "rootfs"}, "process": {"args": ["a"]},
            "linux": {"rootfsPropagation": "rslave"}, "future": 1,
        });
        let got = container(&spec, Path::new("/b")).unwrap();
        assert_eq!(got["root"]["path"], "/b/rootfs");
        assert_eq!(got["linux"]["rootfsPropagation"], "slave");
        assert_eq!(got["process"]["oomScoreAdj"], 0);
        assert_eq!(got["process"]["cwd"], "/");
        assert_eq!(got["process"]["user"], json!({"uid": 0, "gid": 0}));
        assert_eq!(got["process"]["capabilities"], no_capabilities());
        assert_eq!(
            got["linux"]["resources"]["devices"][0],
            json!({"allow": false, "access": "rwm"})
        );
        assert_eq!((got.get("hooks"), &got["future"]), (None, &json!(1)));
    }

    #[test]
    fn what_cannot_hold_is_refused() {
        for (spec, words) in [
            (
                json!({"root": {"path": "/"}, "linux": {"seccomp": {"defaultAction": "SCMP_ACT_WAIT"}}}),
                "linux.seccomp.defaultAction",
            ),
            (
                json!({"root": {"path": "/"}, "linux": {"resources": {"devices": 1}}}),
                "devices",
            ),
            (
                json!({"root": {"path": "/"}, "process": {"apparmorProfile": "cri"}}),
                "AppArmor",
            ),
            (
                json!({"root": {"path": "/"}, "process": {"selinuxLabel": "x:y"}}),
                "SELinux",
            ),
            (json!({"root": {"path": "/"}, "mounts": {}}), "mounts"),
            (json!({"root": {}}), "root.path"),
            (json!([]), "object"),
        ] {
            let why = container(&spec, Path::new("/b")).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn an_exec_without_capabilities_has_those_of_its_container() {
        let spec = json!({
            "root": {"path": "/"},
            "process": {"capabilities": {"bounding": ["CAP_KILL"]}, "oomScoreAdj": 5},
        });
        let config = container(&spec, Path::new("/b")).unwrap();
        let got = exec(&json!({"args": ["a"]}), &config).unwrap();
        assert_eq!(got["capabilities"], json!({"bounding": ["CAP_KILL"]}));
        assert_eq!(got["oomScoreAdj"], 5);
        let own = json!({"capabilities": {"bounding": []}, "oomScoreAdj": 7});
        let got = exec(&own, &config).unwrap();
        assert_eq!(
            (&got["capabilities"], &got["oomScoreAdj"]),
            (&own["capabilities"], &own["oomScoreAdj"])
        );
    }
    #[test]
    fn a_filter_needs_a_capability_until_the_program_runs() {
        let given = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        let spec = |no_new_privileges: bool| {
            let spec = json!({
                "root": {"path": "/"}, "linux": {"seccomp": given},
                "process": {"noNewPrivileges": no_new_privileges, "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"]}},
            });
            container(&spec, Path::new("/b")).unwrap()
        };
        let held = json!({"bounding": ["CAP_KILL"], "effective": ["CAP_KILL", "CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN"]});
        let own = json!({"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"]});
        let config = spec(false);
        assert_eq!(config["process"]["capabilities"], held);
        assert_eq!(spec(true)["process"]["capabilities"], own);
        assert_eq!(
            (profile(&config), config["linux"].get("seccomp")),
            (&given, None)
        );
        // What an exec takes over is what the spec says.
        assert_eq!(exec(&json!({}), &config).unwrap()["capabilities"], held);
        let quiet = exec(&json!({"noNewPrivileges": true}), &config).unwrap();
        assert_eq!(quiet["capabilities"], own);
    }

    #[test]
    fn every_container_has_a_device_directory() {
        let mounts = |mounts: Value| {
            let spec = json!({"root": {"path": "/"}, "process": {"apparmorProfile": ""}, "mounts": mounts});
            let got = container(&spec, Path::new("/b")).unwrap();
            let mounts = got["mounts"].as_array().unwrap().iter();
            let paths = mounts.map(|mount| mount["destination"].as_str().unwrap().to_owned());
            paths.collect::<Vec<_>>()
        };
        assert_eq!(mounts(Value::Null), ["/dev"]);
        assert_eq!(
            mounts(json!([{"destination": "/dev/shm"}])),
            ["/dev", "/dev/shm"]
        );
        for own in ["/dev", "dev", "/dev/"] {
            assert_eq!(
                mounts(json!([{"destination": "/proc"}, {"destination": own}])),
                ["/proc", own]
            );
        }
    }

    #[test]
    fn control_groups_of_v1_are_mounted_one_by_one() {
        let spec = |options: Value| {
            json!({
                "root": {"path": "/"}, "linux": {"cgroupsPath": "/containers/c", "readonlyPaths": ["/proc/bus"]},
                "mounts": [{"destination": "/dev"}, {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}],
            })
        };
        let cgroups = Cgroups {
            mount: Path::new("/sys/fs/cgroup"),
            hierarchies: &["cpu,cpuacct".to_owned(), "pids".to_owned()],
        };
        for (options, access, read_only) in [
            (
                json!(["nosuid", "ro"]),
                "ro",
                json!(["/proc/bus", "/sys/fs/cgroup"]),
            ),
            (json!(null), "rw", json!(["/proc/bus"])),
        ] {
            let got = super::container(&spec(options), Path::new("/b"), &cgroups).unwrap();
            let mounts = got["mounts"].as_array().unwrap();
            assert_eq!(mounts.len(), 4);
            assert_eq!(
                (&mounts[1]["destination"], &mounts[1]["type"]),
                (&json!("/sys/fs/cgroup"), &json!("tmpfs"))
            );
            let pids = json!({
                "destination": "/sys/fs/cgroup/pids", "type": "bind", "source": "/sys/fs/cgroup/pids/containers/c",
                "options": ["bind", "nosuid", "noexec", "nodev", access],
            });
            assert_eq!(mounts[3], pids);
            assert_eq!(got["linux"]["readonlyPaths"], read_only);
        }
    }
}
