//! Disks, layers and directories of the host, mounted and used.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::guest::{each, floor_nanoseconds, floor_rounds, LIMIT};
use super::{stream, BenchError, Figure, Plan, Unit};
use crate::attachment::{AttachError, Attachment};
use crate::host::wire::Rpc;
use crate::host::{Disk, UVM_ID};
use crate::oci::{self, Cache};
use crate::uvm::Uvm;

const ONE: &str = "SCSI attach and detach";
const MANY: &str = "SCSI attach, 32 at once, each";
const LAYERS: [(&str, usize); 3] = [
    ("overlay of 1 layer", 1),
    ("overlay of 16 layers", 16),
    ("overlay of 128 layers", 128),
];
const SHARE: &str = "read over 9P";
pub const NAMES: [&str; 6] = [ONE, MANY, LAYERS[0].0, LAYERS[1].0, LAYERS[2].0, SHARE];

const DISKS: u32 = 32;
const FLOOR_ROUNDS: u32 = 10;
/// Where the floor mounts, and what layers stand on.
const PLACE: &str = "/run/bench-storage";

pub fn measure(
    vm: &Uvm,
    plan: &Plan,
    dir: &Path,
    doing: &mut impl FnMut(&str),
) -> Result<Vec<Figure>, BenchError> {
    doing("plugging in 32 disks");
    let cache = Cache::open(Some(&dir.join("layers")))?;
    let disks = plug(vm, dir, &cache)?;
    let layers = mount_layers(vm, dir, &cache)?;
    let against = "mkdir, mount, unmount and rmdir in the guest";
    let mut one = Figure::new(ONE, Unit::Milliseconds).against(against, 1.5);
    let mut many = Figure::new(MANY, Unit::Milliseconds).against(against, 1.5);
    let mut overlays = LAYERS.map(|(name, _)| Figure::new(name, Unit::Milliseconds));
    // One message of 64 KiB at a time, so it is far from the floor; nothing is asked of it.
    let mut share = Figure::new(SHARE, Unit::MebibytesPerSecond);
    share.against = stream::AGAINST;
    let content = dir.join("content");
    let file = std::fs::create_dir(&content)
        .and_then(|()| std::fs::File::create(content.join("file")))
        .and_then(|file| file.set_len(stream::BYTES));
    file.map_err(BenchError::io("making a file to be read"))?;

    for round in 1..=plan.rounds {
        doing(&format!(
            "disks and layers, round {round} of {}",
            plan.rounds
        ));
        let floor = floor_rounds(vm, &["mount"], FLOOR_ROUNDS, &["/dev/sda", PLACE])?;
        one.floor.push(floor);
        many.floor.push(floor);
        let started = Instant::now();
        for _ in 0..FLOOR_ROUNDS {
            vm.add_disk(&disks[0])?;
            vm.remove_disk(&disks[0])?;
        }
        one.samples.push(each(started.elapsed(), FLOOR_ROUNDS));

        let started = Instant::now();
        let pending: Result<Vec<_>, _> = disks.iter().map(|disk| send(vm, disk)).collect();
        for mut answer in pending? {
            answer.wait(LIMIT)?;
        }
        many.samples.push(each(started.elapsed(), DISKS));
        for (figure, (_, count)) in overlays.iter_mut().zip(LAYERS) {
            figure.samples.push(overlay(vm, count)?);
        }
        for disk in &disks {
            vm.remove_disk(disk)?;
        }

        if crate::choice::program("diod").is_some() {
            share.floor.push(stream::floor(vm)?);
            share.samples.push(read(vm, &content)?);
        }
    }
    vm.unmount_disk(&layers)?;
    let mut figures = vec![one, many];
    figures.extend(overlays);
    figures.push(share);
    Ok(figures)
}

/// Formatted disks in their places, the first of them at LUN 0.
fn plug(vm: &Uvm, dir: &Path, cache: &Cache) -> Result<Vec<Disk>, BenchError> {
    let file = dir.join("disk.img");
    cache.scratch(16 << 20, &file)?;
    (0..DISKS)
        .map(|index| {
            let place = vm.attach_disk(&file, "raw", true)?;
            Ok(Disk {
                controller: place.controller,
                lun: place.lun,
                mount_path: format!("/run/mounts/scsi/bench{index}"),
                read_only: true,
                ensure_filesystem: None,
            })
        })
        .collect()
}

fn send(vm: &Uvm, disk: &Disk) -> Result<crate::host::Pending, BenchError> {
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
fn mount_layers(vm: &Uvm, dir: &Path, cache: &Cache) -> Result<Disk, BenchError> {
    let root = dir.join("many");
    let most = LAYERS[LAYERS.len() - 1].1;
    let made =
        (0..most).try_for_each(|index| std::fs::create_dir_all(root.join(index.to_string())));
    made.map_err(BenchError::io("making directories"))?;
    let image = oci::load(&root, cache)?;
    let layer = image.layers.last();
    let layer = layer.ok_or_else(|| BenchError::Files("the image has no layer".into()))?;
    Ok(vm.mount_disk(&layer.path, true, &format!("{PLACE}-layers"))?)
}

/// MiB/s of a file that is mounted from here.
fn read(vm: &Uvm, content: &Path) -> Result<f64, BenchError> {
    let path = format!("{PLACE}-share");
    let failed = |e: AttachError| BenchError::Files(e.to_string());
    let mut share = Attachment::share(vm, content, &path, true).map_err(failed)?;
    let took = floor_nanoseconds(vm, &["load", &format!("{path}/file")])?;
    share.remove(vm).map_err(failed)?;
    Ok(stream::BYTES as f64 / f64::from(1 << 20) / took.as_secs_f64())
}
