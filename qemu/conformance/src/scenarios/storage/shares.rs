//! MappedDirectory.

use std::time::{Duration, Instant};

use serde_json::json;

use super::plugged::{gone, mount_line};
use crate::{codes, contains, fail, refused, same, that, Checked, Guest, Lab, LIMIT};
use uvm::plan9::{Seen, Server, CONTENT, NAME};

pub const PORT: u32 = 564;

fn add(vm: &Guest, path: &str, more: serde_json::Value) -> Result<(), uvm_host::HostError> {
    let mut settings = json!({"MountPath": path, "Port": PORT});
    if let (Some(settings), serde_json::Value::Object(more)) = (settings.as_object_mut(), more) {
        settings.extend(more);
    }
    vm.modify("MappedDirectory", "Add", settings)
}

fn remove(vm: &Guest, path: &str) -> Result<(), uvm_host::HostError> {
    vm.modify(
        "MappedDirectory",
        "Remove",
        json!({"MountPath": path, "Port": PORT}),
    )
}

/// The server of the next connection.
pub fn server(vm: &Guest) -> Checked<Server> {
    let server = Server::default();
    let taker = server.clone();
    vm.on_dial(PORT, move |stream| taker.serve(stream))?;
    Ok(server)
}

/// Waits for the guest to close the connection.
pub fn closed(server: &Server) -> Checked<Seen> {
    let began = Instant::now();
    loop {
        match server.seen() {
            seen if seen.closed => return Ok(seen),
            seen if began.elapsed() > LIMIT => {
                return Err(fail("a closed connection", format!("{seen:?}")))
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

pub fn mount(lab: &mut Lab) -> Checked {
    let vm = lab.guest()?;
    let path = vm.fresh("/run/lab/share");
    for (name, read_only) in [("", false), ("share-7", false), ("0", true)] {
        let server = server(&vm)?;
        let mut settings = json!({"ReadOnly": read_only});
        if !name.is_empty() {
            settings["ShareName"] = name.into();
        }
        add(&vm, &path, settings)?;
        let line = mount_line(&vm, &path)?;
        let expected = format!("{path} 9p {}", if read_only { "ro" } else { "rw" });
        contains("the mount", &expected, &line)?;
        contains("the mount", "trans=fd", &line)?;
        let named = line.contains(&format!(",aname={name}"));
        that(named || name.is_empty(), format!("aname={name}"), &line)?;
        let content = vm.shell(&format!("cat {path}/{NAME}"))?.run()?;
        same("the file", CONTENT, content.stdout.as_slice())?;
        let written = vm.shell(&format!("echo x > {path}/{NAME}"))?.run()?;
        that(written.code != 0, "no write to succeed", "one that did")?;
        // Refused while it is mounted, and the mount stays.
        refused(add(&vm, &path, json!({})), codes::FAIL)?;
        mount_line(&vm, &path)?;
        remove(&vm, &path)?;
        gone(&vm, &path)?;
        let seen = closed(&server)?;
        same("msize", 65_536, seen.message_size)?;
        same("the version", "9P2000.L", seen.version)?;
        same("aname", Some(name.to_owned()), seen.name)?;
        remove(&vm, &path)?;
    }
    // Nobody listens; a server that hangs up.
    refused(add(&vm, &path, json!({})), codes::FAIL)?;
    gone(&vm, &path)?;
    vm.on_dial(PORT, drop)?;
    refused(add(&vm, &path, json!({})), codes::FAIL)?;
    gone(&vm, &path)
}
