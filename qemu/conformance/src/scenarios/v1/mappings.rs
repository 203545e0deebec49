//! Disks and directories of a container of the V1 schema: with its Create, by ModifySettings, and
//! gone when it has ended.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;

use serde_json::{json, Value};

use super::super::process::{ended, line};
use super::super::storage::mapped::layer;
use super::super::storage::plugged::MIB;
use super::super::storage::shares::{closed, server, PORT};
use super::{create, first, inside, shell, ID, KEPT};
use crate::{codes, contains, not_run, same, AnswerIs, Checked, Guest, Lab, LIMIT, TOOLS};
use uvm::plan9::{Server, CONTENT, NAME};
use uvm_host::wire::Rpc;

const PLACE: &str = "/run/mapped";

fn disk(lun: u8, name: &str) -> Value {
    json!({"ContainerPath": format!("{PLACE}/{name}"), "Lun": lun, "CreateInUtilityVM": true})
}

fn directory(name: &str) -> Value {
    json!({"ContainerPath": format!("{PLACE}/{name}"), "Port": PORT, "CreateInUtilityVM": true})
}

fn body(kind: &str, request: &str, settings: &Value) -> Value {
    json!({"ContainerId": ID, "Request": {
        "ResourceType": kind, "RequestType": request, "Settings": settings}})
}

fn modify(vm: &Guest, kind: &str, request: &str, settings: &Value, code: u32) -> Checked {
    let asked = vm.ask_json(Rpc::ModifySettings, &body(kind, request, settings))?;
    asked.is(code)
}

/// What the host has asked to mount, one line each: path, `ro` or `rw`. The type of a
/// layer is a matter of who made its image.
fn mounts(vm: &Guest, busybox: &str) -> Checked<String> {
    let script = format!(
        "{busybox} grep -e ' {PLACE}' -e ' /run/gcs/c/' -e ' {TOOLS} ' /proc/mounts | \
         {busybox} sed 's/^[^ ]* \\([^ ]*\\) [^ ]* \\(r[ow]\\).*/\\1 \\2/' | {busybox} sort; \
         {busybox} ls {PLACE} /run/gcs/c"
    );
    shell(vm, busybox, &script)
}

pub fn exit(lab: &mut Lab) -> Checked {
    let dir = lab.fresh_dir()?;
    let image = |name: &str| -> Checked<PathBuf> {
        let file = dir.join(name);
        layer(&file, name, 16 * MIB)?;
        Ok(file)
    };
    let pmem = image("pmem")?;
    let vm = lab.boot(|boot| {
        boot.negotiate = false;
        boot.profile.service_flags.push("-v4=false".into());
        boot.profile.pmem.push(pmem);
    })?;
    let lun = |name: &str| -> Checked<u8> { Ok(vm.plug_disk(&image(name)?, "raw", false)?.lun) };
    let (scratch, data, bare, later) = (lun("scratch")?, lun("data")?, lun("bare")?, lun("later")?);
    let share = created(&vm, &document(scratch, data, bare))?;
    let busybox = format!("{TOOLS}/bin/busybox");
    let before = format!(
        "/run/gcs/c/0/0 ro\n/run/gcs/c/0/1 ro\n/run/gcs/c/0/rootfs rw\n\
         /run/gcs/c/0/scratch rw\n{PLACE}/data rw\n{PLACE}/share rw\n\
         {TOOLS} ro\n/run/gcs/c:\n0\n\n{PLACE}:\ndata\nshare\n"
    );
    same("mounts", &before, &mounts(&vm, &busybox)?)?;
    let content = format!("cat {PLACE}/share/{NAME} {PLACE}/data/who");
    let wanted = format!("{}data", String::from_utf8_lossy(CONTENT));
    same("what is mapped", wanted, inside(&vm, &content)?)?;
    if inside(&vm, &format!("cp {busybox} {KEPT}")).is_err() {
        return Err(not_run(
            "the VM's root cannot be written, and nothing else stays mounted",
        ));
    }

    let mut init = first(&vm, "cat /who; echo; echo x > /new; cat; exit 4");
    init = init.open_stdin();
    let mut init = init.start()?;
    line(init.stdio.stdout.as_mut(), "pmem")?;
    changes(&vm, bare, later, &before)?;

    // They stay to the end; the last one comes too late.
    modify(&vm, "MappedVirtualDisk", "Add", &disk(later, "left"), 0)?;
    let (sender, dialled) = mpsc::channel::<UnixStream>();
    vm.on_dial(PORT, move |stream| drop(sender.send(stream)))?;
    let late = body("MappedDirectory", "Add", &directory("late"));
    let mut late = vm.send(Rpc::ModifySettings, ID, late)?;
    let stream = dialled.recv_timeout(LIMIT)?;
    let mut stdin = init.stdio.stdin.take().expect("a connection");
    stdin.write_all(b"end")?;
    drop(stdin);
    ended(&mut init, "exit code", 4)?;
    let exit = vm.wait_notification(ID, LIMIT)?.members;
    same("Type", Some("UnexpectedExit"), exit["Type"].as_str())?;
    closed(&share)?;
    let left = format!("/run/gcs/c:\n\n{PLACE}:\n");
    let seen = mounts(&vm, KEPT)?;
    // Its server has said nothing yet; the directory to mount it on is there.
    same("left", left.clone() + "late\n", seen)?;
    let server = Server::default();
    server.serve(stream);
    late.answer(LIMIT)?.is(codes::NOT_FOUND)?;
    closed(&server)?;
    same("left", left, mounts(&vm, KEPT)?)?;
    let gone = json!({"ContainerId": ID, "Query": ""});
    vm.ask_json(Rpc::GetProperties, &gone)?.is(codes::NOT_FOUND)
}

/// Layers in persistent memory and on a disk, three disks and a directory.
fn document(scratch: u8, data: u8, bare: u8) -> Value {
    let mut attach_only = disk(bare, "bare");
    attach_only["AttachOnly"] = true.into();
    json!({
        "Layers": [{"Path": "pmem:0"}, {"Path": "scsi:0"}],
        "SandboxDataPath": scratch.to_string(),
        "MappedVirtualDisks": [
            {"ContainerPath": TOOLS, "Lun": 0, "CreateInUtilityVM": true, "ReadOnly": true},
            disk(data, "data"), attach_only],
        "MappedDirectories": [directory("share")]})
}

/// Create that is refused first: nothing of it stays, as the next one shows. Gives the server of
/// its directory.
fn created(vm: &Guest, document: &Value) -> Checked<Server> {
    // Nobody listens.
    let refusal = create(vm, document)?;
    if refusal.code() == codes::NOT_IMPLEMENTED {
        return Err(not_run("this guest has no V1 schema"));
    }
    refusal.is(codes::FAIL)?;
    let mut elsewhere = document.clone();
    elsewhere["MappedDirectories"][0]["CreateInUtilityVM"] = false.into();
    create(vm, &elsewhere)?.is(codes::FAIL)?;
    let share = server(vm)?;
    create(vm, document)?.is(0)?;
    Ok(share)
}

/// ModifySettings of the running container: all is as `before` afterwards.
fn changes(vm: &Guest, bare: u8, later: u8, before: &String) -> Checked {
    let busybox = format!("{TOOLS}/bin/busybox");
    let added = disk(later, "later");
    modify(vm, "MappedVirtualDisk", "Add", &added, 0)?;
    let who = inside(vm, &format!("cat {PLACE}/later/who"))?;
    same("the disk", "later", who.as_str())?;
    // Unmounted only: a Remove unplugs as well, and the disk is needed again.
    modify(vm, "MappedDirectory", "Remove", &added, 0)?;
    same("mounts", before, &mounts(vm, &busybox)?)?;
    let scsi = |lun: u8| {
        inside(
            vm,
            &format!("ls -d /sys/class/scsi_device/0:0:0:{lun}; true"),
        )
    };
    contains("the disks", &format!(":{bare}"), &scsi(bare)?)?;
    let mut attach_only = disk(bare, "bare");
    attach_only["AttachOnly"] = true.into();
    modify(vm, "MappedVirtualDisk", "Add", &attach_only, 0)?;
    same("mounts", before, &mounts(vm, &busybox)?)?;
    modify(vm, "MappedVirtualDisk", "Remove", &attach_only, 0)?;
    same("the disk", "", scsi(bare)?.as_str())?;

    let share = server(vm)?;
    let added = directory("more");
    modify(vm, "MappedDirectory", "Add", &added, 0)?;
    contains(
        "mounts",
        &format!("{PLACE}/more rw"),
        &mounts(vm, &busybox)?,
    )?;
    let content = inside(vm, &format!("cat {PLACE}/more/{NAME}"))?;
    same("the file", CONTENT, content.as_bytes())?;
    modify(vm, "MappedDirectory", "Remove", &added, 0)?;
    closed(&share)?;
    same("mounts", before, &mounts(vm, &busybox)?)?;

    let mut elsewhere = added.clone();
    elsewhere["CreateInUtilityVM"] = false.into();
    modify(vm, "MappedDirectory", "Add", &elsewhere, codes::FAIL)?;
    modify(vm, "MappedDirectory", "Update", &added, codes::FAIL)?;
    modify(vm, "Network", "Add", &json!({}), codes::FAIL)
}
