//! What a container's life looks like on the wire, against a fake guest.

#[path = "../../host/tests/fake_guest/mod.rs"]
mod fake_guest;

use std::cell::Cell;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use fake_guest::{pair, stdio_ports, FakeGuest};
use serde_json::{json, Value};
use uvm::container::{self, Container, Plug, Rootfs};
use uvm::UvmError;
use uvm_host::wire::Rpc;
use uvm_vm::qmp::ScsiAddress;

const LONG: Duration = Duration::from_secs(60);
const NOT_FOUND: i32 = 0xc037_010e_u32.cast_signed();

#[derive(Default)]
struct Places(Cell<u8>);

impl Plug for Places {
    fn plug(&self, _file: &Path, _read_only: bool) -> Result<ScsiAddress, UvmError> {
        let lun = self.0.replace(self.0.get() + 1);
        Ok(ScsiAddress { controller: 0, lun })
    }
}

/// One line for a request: what a reader of the wire would note.
fn note(rpc: Rpc, body: &Value) -> String {
    let request = &body["Request"];
    if rpc != Rpc::ModifySettings {
        return format!("{rpc:?}");
    }
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, resource) = (
        word(&request["RequestType"]),
        word(&request["ResourceType"]),
    );
    format!("{kind} {resource} {}", request["Settings"])
}

/// Serves requests until the bridge closes; the program writes its input back and exits with 7.
fn serve(mut guest: FakeGuest, gone: bool) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some((rpc, id, body)) = guest.request() {
        seen.push(note(rpc, &body));
        match rpc {
            Rpc::ExecuteProcess => {
                let [stdin, stdout, stderr] = stdio_ports(&body).map(|port| guest.dial(port));
                guest.answer(rpc, id, json!({"Result": 0, "ProcessId": 42}));
                let (rpc, id, wait) = guest.request().unwrap();
                seen.push(note(rpc, &wait));
                let (mut stdin, mut stdout, mut stderr) = (stdin, stdout, stderr);
                std::io::copy(&mut stdin, &mut stdout).unwrap();
                stderr.write_all(b"done").unwrap();
                drop((stdin, stdout, stderr));
                guest.answer(rpc, id, json!({"Result": 0, "ExitCode": 7}));
                guest.notify("c");
            }
            Rpc::ShutdownGraceful if gone => {
                let text = "no such container";
                guest.answer(rpc, id, json!({"Result": NOT_FOUND, "ErrorMessage": text}));
            }
            _ => guest.answer(rpc, id, json!({"Result": 0})),
        }
    }
    seen
}

fn life(gone: bool) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let (host, guest) = pair(dir.path(), true, move |guest| serve(guest, gone));
    host.wait_connected(LONG).unwrap();
    let layers = [Path::new("bottom"), Path::new("top")];
    let scratch = Path::new("scratch");
    let rootfs = Rootfs::plug(&Places::default(), "c", scratch, &layers).unwrap();
    let container = Container::mount(&host, "c", rootfs).unwrap();
    let spec = json!({"process": {}, "root": {"path": container::root("c")}, "linux": {}});
    container.create(&spec).unwrap();
    container.start().unwrap();
    let out = container.init().input("some words").run().unwrap();
    assert_eq!(
        (out.code, out.text(), out.error_text()),
        (7, "some words".into(), "done".into())
    );
    let places = container.remove().unwrap();
    assert_eq!(places.len(), 3);
    drop(host);
    guest.join().unwrap()
}

#[test]
fn requests_come_in_the_order_of_a_windows_host() {
    let disk = |lun: u8, rest: &str| {
        let head = format!(r#"{{"MountPath":"/run/mounts/scsi/m{lun}","Lun":{lun},"Controller":0"#);
        format!("{head}{rest}}}")
    };
    let read_only = r#","ReadOnly":true,"Options":["ro"]"#;
    let scratch = r#","ReadOnly":false,"EnsureFilesystem":true,"Filesystem":"ext4""#;
    let layers = r#"[{"Path":"/run/mounts/scsi/m2"},{"Path":"/run/mounts/scsi/m1"}]"#;
    let expected = [
        format!("Add MappedVirtualDisk {}", disk(0, scratch)),
        format!("Add MappedVirtualDisk {}", disk(1, read_only)),
        format!("Add MappedVirtualDisk {}", disk(2, read_only)),
        format!(
            r#"Add CombinedLayers {{"ContainerID":"c","ContainerRootPath":"/run/gcs/c/c/rootfs","Layers":{layers},"ScratchPath":"/run/mounts/scsi/m0/scratch/c"}}"#
        ),
        "Create".into(),
        "Start".into(),
        "ExecuteProcess".into(),
        "WaitForProcess".into(),
        "ShutdownGraceful".into(),
        r#"Remove CombinedLayers {"ContainerRootPath":"/run/gcs/c/c/rootfs"}"#.into(),
        format!("Remove MappedVirtualDisk {}", disk(2, "")),
        format!("Remove MappedVirtualDisk {}", disk(1, "")),
        format!("Remove MappedVirtualDisk {}", disk(0, "")),
        r#"Remove SCSIDevice {"Controller":0,"Lun":2}"#.into(),
        r#"Remove SCSIDevice {"Controller":0,"Lun":1}"#.into(),
        r#"Remove SCSIDevice {"Controller":0,"Lun":0}"#.into(),
        "DeleteContainerState".into(),
    ];
    assert_eq!(life(false), expected);
    assert_eq!(
        life(true),
        expected,
        "also when the container is gone already"
    );
}
