//! From the start of QEMU to a guest that answers.

use std::path::Path;

use super::meter::{Counter, Meter};
use super::{BenchError, Figure, Plan, Unit};

pub const NAME: &str = "boot: QEMU start to negotiated";
/// What PID 1 adds to the kernel's own boot is the difference of the figure and its floor.
pub const COUNTED: &str = "instructions: boot, QEMU start to negotiated";
const AGAINST: &str = "the same kernel, PID 1 only dials the bridge port";

pub fn measure(
    plan: &Plan,
    guest: &Path,
    floor: &Path,
    doing: &mut impl FnMut(&str),
) -> Result<Figure, BenchError> {
    let mut figure = Figure::new(NAME, Unit::Milliseconds).against(AGAINST, 1.08);
    // The first one reads the files from the disk.
    for round in 0..=plan.rounds {
        doing(&format!("boot, round {round} of {}", plan.rounds));
        let vm = plan.boot(floor, Some("boot"))?;
        let dialled = vm.timings().bridge;
        drop(vm);
        let vm = plan.boot(guest, None)?;
        let timings = vm.timings();
        let negotiated = timings.negotiated.unwrap_or(timings.bridge);
        drop(vm);
        if round > 0 {
            figure.floor.push(dialled.as_secs_f64() * 1e3);
            figure.samples.push(negotiated.as_secs_f64() * 1e3);
        }
    }
    Ok(figure)
}

/// The same in instructions of the guest.
pub fn count(
    plan: &Plan,
    guest: &Path,
    floor: &Path,
    dir: &Path,
    doing: &mut impl FnMut(&str),
) -> Result<Figure, BenchError> {
    let mut figure = Figure::new(COUNTED, Unit::Kiloinstructions).against(AGAINST, 1.08);
    let Some(plugin) = &plan.counter else {
        return Ok(figure);
    };
    let socket = dir.join("counter-boot");
    let boot = |initrd: &Path, init_line: Option<&str>| {
        let vm = plan.boot_with(initrd, |profile| {
            profile.init_line = init_line.map(str::to_owned);
            let arguments = Counter::arguments(plugin, &socket);
            profile.qemu_arguments.extend(arguments);
        })?;
        let total = Meter::Counter(Counter::connect(&socket)?).read()?;
        drop(vm);
        std::fs::remove_file(&socket).map_err(BenchError::io("removing the counter's socket"))?;
        Ok::<_, BenchError>(total)
    };
    for round in 1..=plan.rounds {
        doing(&format!(
            "counting a boot, round {round} of {}",
            plan.rounds
        ));
        figure.floor.push(boot(floor, Some("boot"))?);
        figure.samples.push(boot(guest, None)?);
    }
    Ok(figure)
}
