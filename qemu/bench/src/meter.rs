//! What is read before and after a piece of work: a clock, or the guest's instructions.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::floor::{floor, floor_rounds};
use super::BenchError;
use uvm::Uvm;

pub enum Meter {
    /// Milliseconds since then.
    Clock(Instant),
    /// Thousands of instructions since the VM began.
    Counter(Counter),
}

impl Meter {
    pub fn clock() -> Self {
        Self::Clock(Instant::now())
    }

    pub fn read(&mut self) -> Result<f64, BenchError> {
        match self {
            Self::Clock(since) => Ok(since.elapsed().as_secs_f64() * 1e3),
            Self::Counter(counter) => counter.total().map(|total| total as f64 / 1e3),
        }
    }

    /// What one of so many pieces of work takes.
    pub fn each(
        &mut self,
        count: u32,
        mut work: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<f64, BenchError> {
        let before = self.read()?;
        (0..count).try_for_each(|_| work())?;
        Ok((self.read()? - before) / f64::from(count))
    }

    /// What one round of a mode of the floor program takes. Only the program's own clock leaves
    /// out what it takes to start it, so instructions are counted by the difference of two runs.
    pub fn floor_rounds(
        &mut self,
        vm: &Uvm,
        before: &[&str],
        rounds: u32,
        after: &[&str],
    ) -> Result<f64, BenchError> {
        if let Self::Clock(_) = self {
            return floor_rounds(vm, before, rounds, after);
        }
        let mut run = |rounds: u32| {
            let count = rounds.to_string();
            let words = [before, &[count.as_str()], after].concat();
            self.each(1, || floor(vm, &words).map(drop))
        };
        Ok((run(rounds + 1)? - run(1)?) / f64::from(rounds))
    }
}

/// The counter plugin (`qemu/bench/counter`) in the QEMU of a VM.
pub struct Counter(BufReader<UnixStream>);

impl Counter {
    /// More arguments for QEMU, so that the plugin listens at `socket`.
    pub fn arguments(plugin: &Path, socket: &Path) -> [String; 2] {
        let words = format!("file={},socket={}", plugin.display(), socket.display());
        ["-plugin".into(), words]
    }

    pub fn connect(socket: &Path) -> Result<Self, BenchError> {
        let io = |e| BenchError::io("talking to the counter plugin")(e);
        let stream = UnixStream::connect(socket).map_err(io)?;
        let limit = Some(Duration::from_secs(60));
        stream.set_read_timeout(limit).map_err(io)?;
        Ok(Self(BufReader::new(stream)))
    }

    fn total(&mut self) -> Result<u64, BenchError> {
        let io = |e| BenchError::io("talking to the counter plugin")(e);
        self.0.get_mut().write_all(b"?").map_err(io)?;
        let mut line = String::new();
        self.0.read_line(&mut line).map_err(io)?;
        let number = line.trim().parse();
        number.map_err(|_| io(std::io::Error::other(format!("it said {line:?}"))))
    }
}
