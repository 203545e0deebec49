//! The floor program as a process of the VM.

use std::time::Duration;

use super::initrd::FLOOR;
use super::BenchError;
use uvm::Uvm;
use uvm_host::Launch;

/// Far above anything that works; a guest that hangs is an error, not a figure.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Milliseconds for one of `count`.
pub fn each(all: Duration, count: u32) -> f64 {
    all.as_secs_f64() * 1e3 / f64::from(count)
}

/// Runs it to its end, which must be 0.
pub fn succeeds(launch: Launch, args: &[&str]) -> Result<(), BenchError> {
    let code = launch.start()?.wait(LIMIT)?;
    check(args, code, "")
}

pub fn check(args: &[&str], code: u32, said: &str) -> Result<(), BenchError> {
    if code == 0 {
        return Ok(());
    }
    Err(BenchError::Floor {
        args: args.join(" "),
        code,
        said: said.trim().to_owned(),
    })
}

/// The floor program as a process of the VM; what it prints.
pub fn floor(vm: &Uvm, words: &[&str]) -> Result<String, BenchError> {
    let all: Vec<&str> = [FLOOR].into_iter().chain(words.iter().copied()).collect();
    let output = vm.external(&all).limit(LIMIT).run()?;
    check(&all, output.code, &output.error_text())?;
    Ok(output.text())
}

/// A mode of the floor program that repeats something and prints nanoseconds: milliseconds for
/// one. `before` and `after` are its arguments around the number of rounds.
pub fn floor_rounds(
    vm: &Uvm,
    before: &[&str],
    rounds: u32,
    after: &[&str],
) -> Result<f64, BenchError> {
    let count = rounds.to_string();
    let args: Vec<&str> = before
        .iter()
        .copied()
        .chain([count.as_str()])
        .chain(after.iter().copied())
        .collect();
    Ok(each(floor_nanoseconds(vm, &args)?, rounds))
}

/// The time that a mode of the floor program prints.
pub fn floor_nanoseconds(vm: &Uvm, args: &[&str]) -> Result<Duration, BenchError> {
    let said = floor(vm, args)?;
    let nanoseconds = said.trim().parse().map_err(|_| BenchError::Floor {
        args: args.join(" "),
        code: 0,
        said: said.clone(),
    })?;
    Ok(Duration::from_nanos(nanoseconds))
}
