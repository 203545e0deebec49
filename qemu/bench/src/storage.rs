//! Disks and layers, mounted. A disk is timed from the moment at which QEMU has plugged it in, so
//! that the kernel's own time until it announces the disk is in the figure and in its floor.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::floor::{each, floor_rounds, LIMIT};
use super::initrd::FLOOR;
use super::meter::Meter;
use super::{BenchError, Figure, Plan, Unit};
use uvm::Uvm;
use uvm_host::wire::Rpc;
use uvm_host::{MappedVirtualDisk, UVM_ID};
use uvm_images::{Cache, Platform};
use uvm_vm::qmp::ScsiAddress;

const ONE: &str = "SCSI attach, request to mounted";
const MANY: &str = "SCSI attach, 32 at once";
const THERE: &str = "SCSI attach and detach, disk there";
const LAYERS: [(&str, usize); 3] = [
    ("overlay of 1 layer", 1),
    ("overlay of 16 layers", 16),
    ("overlay of 128 layers", 128),
];
pub const NAMES: [&str; 6] = [ONE, MANY, THERE, LAYERS[0].0, LAYERS[1].0, LAYERS[2].0];

pub const DISKS: usize = 32;
/// Turns within a round, of what is short.
const TURNS: u32 = 10;
/// The same, of what takes long to remove.
const PLUGS: usize = 3;
/// Where the floor mounts, and what layers stand on.
const PLACE: &str = "/run/bench-storage";

pub fn measure(
    vm: &Uvm,
    plan: &Plan,
    dir: &Path,
    doing: &mut impl FnMut(&str),
) -> Result<Vec<Figure>, BenchError> {
    let cache = Cache::open(Some(&dir.join("layers")))?;
    let file = dir.join("disk.img");
    cache.scratch(16 << 20, &file)?;
    // The first disk, so its name is known.
    let there = plug(vm, &file)?;
    let layers = mount_layers(vm, dir, &cache)?;
    let kernel = "the event of the disk and its mount, in a loop in the guest";
    let mut one = Figure::new(ONE, Unit::Milliseconds).against(kernel, 1.4);
    let mut many = Figure::new(MANY, Unit::Milliseconds).against(kernel, 1.3);
    let mut again = Figure::new(THERE, Unit::Milliseconds);
    again.against = "mkdir, mount, unmount and rmdir in the guest";
    let mut overlays = LAYERS.map(|(name, _)| {
        let mut figure = Figure::new(name, Unit::Milliseconds);
        figure.against = "mkdir, fsopen, fsconfig and fsmount in the guest";
        figure
    });

    let mut clock = Meter::clock();
    for round in 1..=plan.rounds {
        doing(&format!("disks, round {round} of {}", plan.rounds));
        for _ in 0..PLUGS {
            one.floor.push(arrive(vm, &file, 1, &mut clock)?);
            one.samples.push(attach(vm, &file, 1, &mut clock)?);
        }
        if plan.wants(MANY) {
            many.floor.push(arrive(vm, &file, DISKS, &mut clock)?);
            many.samples.push(attach(vm, &file, DISKS, &mut clock)?);
        }
        let floor = floor_rounds(vm, &["mount"], TURNS, &["/dev/sda", PLACE])?;
        again.floor.push(floor);
        let started = Instant::now();
        for _ in 0..TURNS {
            vm.add_disk(&there)?;
            vm.remove_disk(&there)?;
        }
        again.samples.push(each(started.elapsed(), TURNS));
        doing(&format!("layers, round {round} of {}", plan.rounds));
        for (figure, (_, count)) in overlays.iter_mut().zip(LAYERS) {
            let count_word = count.to_string();
            let (from, to) = (format!("{PLACE}-layers"), format!("{PLACE}-floor"));
            let args = [count_word.as_str(), &from, &to];
            figure
                .floor
                .push(floor_rounds(vm, &["overlay"], TURNS, &args)?);
            let mut took = 0.0;
            for _ in 0..TURNS {
                took += overlay(vm, count)?;
            }
            figure.samples.push(took / f64::from(TURNS));
        }
    }
    vm.unmount_disk(&layers)?;
    let mut figures = vec![one, many, again];
    figures.extend(overlays);
    Ok(figures)
}

/// A formatted disk, plugged in.
fn plug(vm: &Uvm, file: &Path) -> Result<MappedVirtualDisk, BenchError> {
    let ScsiAddress { controller, lun } = vm.plug_disk(file, "raw", true)?;
    let path = format!("/run/mounts/scsi/bench{lun}");
    Ok(MappedVirtualDisk::new(controller, lun, &path, true))
}

/// What it takes until the guest has mounted this many disks. Each is plugged in and then asked
/// for, as hosts do.
pub fn attach(vm: &Uvm, file: &Path, count: usize, meter: &mut Meter) -> Result<f64, BenchError> {
    let (mut disks, mut pending, mut before) = (Vec::new(), Vec::new(), None);
    for _ in 0..count {
        let disk = plug(vm, file)?;
        if before.is_none() {
            before = Some(meter.read()?);
        }
        pending.push(send(vm, &disk)?);
        disks.push(disk);
    }
    for mut answer in pending {
        answer.wait(LIMIT)?;
    }
    let took = meter.read()? - before.unwrap_or_default();
    for disk in &disks {
        vm.unmount_disk(disk)?;
    }
    Ok(took)
}

/// The same by a program that uses only the kernel's events.
pub fn arrive(vm: &Uvm, file: &Path, count: usize, meter: &mut Meter) -> Result<f64, BenchError> {
    let number = count.to_string();
    let args = [FLOOR, "arrive", &number, PLACE];
    let mut process = vm.external(&args).start()?;
    let io = |e| BenchError::io("listening to the floor program")(e);
    let stdout = process.stdio.stdout.take();
    let stdout = stdout.ok_or_else(|| io(std::io::ErrorKind::NotConnected.into()))?;
    stdout.set_read_timeout(Some(LIMIT)).map_err(io)?;
    let mut lines = BufReader::new(stdout).lines();
    let mut expect = |word: &str| match lines.next() {
        Some(Ok(line)) if line == word => Ok(()),
        Some(Err(error)) => Err(io(error)),
        other => Err(BenchError::Floor {
            args: args.join(" "),
            code: 0,
            said: format!("{other:?} instead of {word}"),
        }),
    };
    expect("ready")?;
    let (mut disks, mut before) = (Vec::new(), None);
    for _ in 0..count {
        disks.push(plug(vm, file)?);
        if before.is_none() {
            before = Some(meter.read()?);
        }
    }
    expect("mounted")?;
    let took = meter.read()? - before.unwrap_or_default();
    process.wait(LIMIT)?;
    for disk in &disks {
        vm.eject_disk(ScsiAddress {
            controller: disk.controller,
            lun: disk.lun,
        })?;
    }
    Ok(took)
}

fn send(vm: &Uvm, disk: &MappedVirtualDisk) -> Result<uvm_host::Pending, BenchError> {
    let settings = json!({"MountPath": disk.mount_path, "Lun": disk.lun, "ReadOnly": true,
        "Controller": disk.controller});
    let body = json!({"Request": {
        "ResourceType": "MappedVirtualDisk", "RequestType": "Add", "Settings": settings}});
    Ok(vm.send(Rpc::ModifySettings, UVM_ID, body)?)
}

/// Milliseconds from the request to the answer, read-write.
fn overlay(vm: &Uvm, count: usize) -> Result<f64, BenchError> {
    let (root, scratch) = (format!("{PLACE}-root"), format!("{PLACE}-scratch"));
    let layers: Vec<String> = (0..count)
        .map(|index| format!("{PLACE}-layers/{index}"))
        .collect();
    let started = Instant::now();
    vm.combine_layers("bench", &root, &layers, Some(&scratch))?;
    let took = each(started.elapsed(), 1);
    vm.remove_layers(&root)?;
    Ok(took)
}

/// A disk with as many directories as there are layers: to the guest they are the same.
fn mount_layers(vm: &Uvm, dir: &Path, cache: &Cache) -> Result<MappedVirtualDisk, BenchError> {
    let root = dir.join("many");
    let most = LAYERS[LAYERS.len() - 1].1;
    let made =
        (0..most).try_for_each(|index| std::fs::create_dir_all(root.join(index.to_string())));
    made.map_err(BenchError::io("making directories"))?;
    let image = uvm_images::load(&root, &Platform::of_machine(), cache)?;
    let layer = image.layers.last();
    let layer = layer.ok_or_else(|| BenchError::Files("the image has no layer".into()))?;
    Ok(vm.mount_disk(&layer.path, true, &format!("{PLACE}-layers"))?)
}
