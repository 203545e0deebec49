//! Figures of the guest service itself: processes of the VM, round trips, memory.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::initrd::FLOOR;
use super::meter::Meter;
use super::{BenchError, Figure, Unit};
use uvm::Uvm;
use uvm_host::{HostError, Launch};

const PROCESS: &str = "process of the UVM";
const TRIPS: &str = "bridge round trips";
const IDLE: &str = "memory of PID 1, idle";
const AFTER: &str = "memory of PID 1, after 100 execs";
pub const NAMES: [&str; 4] = [PROCESS, TRIPS, IDLE, AFTER];

/// Far above anything that works; a guest that hangs is an error, not a figure.
pub const LIMIT: Duration = Duration::from_secs(300);
const PER_ROUND: u32 = 20;
const EXECS: u32 = 100;
const TRIPS_PER_ROUND: u32 = 200;
/// About the size of a small request.
const MESSAGE: [u8; 200] = [b'x'; 200];

pub fn measure(
    vm: &Uvm,
    rounds: u32,
    doing: &mut impl FnMut(&str),
) -> Result<Vec<Figure>, BenchError> {
    let mut idle = Figure::new(IDLE, Unit::Kibibytes).within(4096.0);
    idle.samples.push(resident(vm)?);

    let mut process =
        Figure::new(PROCESS, Unit::Milliseconds).against("vfork, exec and wait in the guest", 3.0);
    let mut trips =
        Figure::new(TRIPS, Unit::PerSecond).against("echo over a vsock connection", 0.7);
    exec(vm)?;
    for round in 1..=rounds {
        doing(&format!(
            "processes and round trips, round {round} of {rounds}"
        ));
        let (floor, ours) = process_of(vm, &mut Meter::clock())?;
        process.floor.push(floor);
        process.samples.push(ours);
        trips.floor.push(echo(vm)?);
        trips.samples.push(requests(vm)?);
    }
    let mut after = Figure::new(AFTER, Unit::Kibibytes).within(4096.0);
    for _ in 0..EXECS.saturating_sub(rounds * PER_ROUND) {
        exec(vm)?;
    }
    after.samples.push(resident(vm)?);
    Ok(vec![process, trips, idle, after])
}

/// Milliseconds for one of `count`.
pub fn each(all: Duration, count: u32) -> f64 {
    all.as_secs_f64() * 1e3 / f64::from(count)
}

/// The floor and the guest for a process of the VM.
pub fn process_of(vm: &Uvm, meter: &mut Meter) -> Result<(f64, f64), BenchError> {
    let floor = meter.floor_rounds(vm, &["spawn"], PER_ROUND, &[])?;
    let ours = meter.each(PER_ROUND, || exec(vm))?;
    Ok((floor, ours))
}

/// One process without streams, from the request to the report of its exit.
fn exec(vm: &Uvm) -> Result<(), BenchError> {
    let args = [FLOOR, "true"];
    let launch = vm.external(&args).without_stdout().without_stderr();
    succeeds(launch, &args)
}

/// Runs it to its end, which must be 0.
pub fn succeeds(launch: Launch, args: &[&str]) -> Result<(), BenchError> {
    let code = launch.start()?.wait(LIMIT)?;
    check(args, code, "")
}

fn check(args: &[&str], code: u32, said: &str) -> Result<(), BenchError> {
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

/// `VmRSS` of PID 1.
fn resident(vm: &Uvm) -> Result<f64, BenchError> {
    let args = ["cat", "/proc/1/status"];
    let status = floor(vm, &args)?;
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    value.ok_or_else(|| BenchError::Floor {
        args: args.join(" "),
        code: 0,
        said: "no VmRSS".into(),
    })
}

/// Messages to the floor program and back, per second.
fn echo(vm: &Uvm) -> Result<f64, BenchError> {
    let host = vm.host();
    let port = host.open_stream()?;
    let number = port.to_string();
    let args = [FLOOR, "echo", &number];
    let mut process = vm.external(&args).without_stdout().start()?;
    let mut stream = host.take_stream(port, LIMIT)?;
    let io = |e| BenchError::io("talking to the echo")(e);
    stream.set_read_timeout(Some(LIMIT)).map_err(io)?;
    let mut back = [0; MESSAGE.len()];
    let started = Instant::now();
    for _ in 0..TRIPS_PER_ROUND {
        stream.write_all(&MESSAGE).map_err(io)?;
        stream.read_exact(&mut back).map_err(io)?;
    }
    let rate = f64::from(TRIPS_PER_ROUND) / started.elapsed().as_secs_f64();
    stream.shutdown(std::net::Shutdown::Write).map_err(io)?;
    check(&args, process.wait(LIMIT)?, "")?;
    Ok(rate)
}

/// Requests that the guest answers from its own memory, per second.
fn requests(vm: &Uvm) -> Result<f64, BenchError> {
    let one = Meter::clock().each(TRIPS_PER_ROUND, || request(vm))?;
    Ok(1e3 / one)
}

/// A request that the guest refuses from its own memory.
pub fn request(vm: &Uvm) -> Result<(), BenchError> {
    match vm.properties("bench-unknown", &[]) {
        Err(HostError::Refused { .. }) => Ok(()),
        Err(other) => Err(other.into()),
        Ok(_) => Err(BenchError::Floor {
            args: "GetProperties of an unknown container".into(),
            code: 0,
            said: "succeeded".into(),
        }),
    }
}
