//! Directories of the host, read: by the size of the messages, which the kernel line sets.

use std::path::Path;

use serde_json::json;

use super::floor::floor_nanoseconds;
use super::{stream, BenchError, Figure, Plan, Unit};
use uvm::plan9::{Server, NAME};
use uvm::Uvm;
use uvm::{attachment::Attachment, AttachError};
use uvm_vm::profile::Profile;

/// By the small server of `uvm`, which takes messages of any size; the figures differ in nothing
/// else.
const SIZES: [(&str, u32); 3] = [
    ("read over 9P, 64 KiB a message", 64 << 10),
    ("read over 9P, 256 KiB a message", 256 << 10),
    ("read over 9P, 1 MiB a message", 1 << 20),
];
/// By the server that `uvm` shares directories with.
const SHARED: &str = "read over 9P, a shared directory";
pub const NAMES: [&str; 4] = [SIZES[0].0, SIZES[1].0, SIZES[2].0, SHARED];

const PATH: &str = "/run/bench-share";
const PORT: u32 = 564;

pub fn measure(
    plan: &Plan,
    initrd: &Path,
    dir: &Path,
    doing: &mut impl FnMut(&str),
) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for (name, size) in SIZES {
        let with_shared = figures.is_empty() && plan.wants(SHARED);
        if !(plan.wants(name) || with_shared) {
            continue;
        }
        doing(&format!("booting for {name}"));
        let option = format!("gcs.9p_msize={size}");
        let vm = plan.boot_with(initrd, |profile: &mut Profile| {
            profile.kernel_options.push(option);
        })?;
        let mut figure = Figure::new(name, Unit::MebibytesPerSecond);
        figure.against = stream::INWARD;
        let mut shared = with_shared.then(|| Figure::new(SHARED, Unit::MebibytesPerSecond));
        let content = dir.join("content");
        if let Some(shared) = &mut shared {
            shared.against = stream::INWARD;
            let made = std::fs::create_dir_all(&content)
                .and_then(|()| std::fs::File::create(content.join(NAME)))
                .and_then(|file| file.set_len(stream::BYTES));
            made.map_err(BenchError::io("making a file to be read"))?;
        }
        for round in 1..=plan.rounds {
            doing(&format!("{name}, round {round} of {}", plan.rounds));
            let floor = stream::inward(&vm)?;
            figure.floor.push(floor);
            figure.samples.push(read(&vm, size)?);
            if let Some(shared) = &mut shared {
                shared.floor.push(floor);
                let failed = |e: AttachError| BenchError::Files(e.to_string());
                let share = Attachment::share(&vm, &content, PATH, true);
                let mut share = share.map_err(failed)?;
                shared.samples.push(load(&vm)?);
                share.remove(&vm).map_err(failed)?;
            }
        }
        vm.power_off()?;
        figures.push(figure);
        figures.extend(shared);
    }
    Ok(figures)
}

fn read(vm: &Uvm, size: u32) -> Result<f64, BenchError> {
    let server = Server::of_zeros(stream::BYTES);
    let serving = server.clone();
    vm.on_dial(PORT, move |stream| serving.serve(stream))?;
    vm.modify(
        "MappedDirectory",
        "Add",
        json!({"MountPath": PATH, "Port": PORT, "ReadOnly": true}),
    )?;
    let agreed = server.seen().message_size;
    if agreed != size {
        let text = format!("messages of {agreed} bytes were agreed, not of {size}");
        return Err(BenchError::Files(text));
    }
    let rate = load(vm)?;
    vm.modify("MappedDirectory", "Remove", json!({"MountPath": PATH}))?;
    Ok(rate)
}

/// MiB/s of the file that is mounted.
fn load(vm: &Uvm) -> Result<f64, BenchError> {
    let took = floor_nanoseconds(vm, &["load", &format!("{PATH}/{NAME}")])?;
    Ok(stream::BYTES as f64 / f64::from(1 << 20) / took.as_secs_f64())
}
