//! From the start of QEMU to a guest that answers.

use std::path::Path;

use super::{BenchError, Figure, Plan, Unit};

pub const NAME: &str = "boot: QEMU start to negotiated";

pub fn measure(
    plan: &Plan,
    guest: &Path,
    floor: &Path,
    doing: &mut impl FnMut(&str),
) -> Result<Figure, BenchError> {
    let mut figure = Figure::new(NAME, Unit::Milliseconds)
        .against("the same kernel, PID 1 only dials the bridge port", 1.08);
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
