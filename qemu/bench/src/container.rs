//! Whole containers, from SCSI disks to the exit notification, as a host runs them.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::guest::{each, floor_rounds, succeeds, LIMIT};
use super::{stream, BenchError, Figure, Plan, Unit};
use uvm::container::{root, Container, Rootfs};
use uvm::Uvm;
use uvm_images::{Cache, ImageConfig};

const WHOLE: &str = "container, disks to exit";
const CREATE: &str = "  of it: create";
const RUN: &str = "  of it: start to exit reported";
const EXEC: &str = "exec in a container";
const STDOUT: &str = "stdout of a container";
pub const NAMES: [&str; 5] = [WHOLE, CREATE, RUN, EXEC, STDOUT];

/// The floor program in the container's root.
const PROGRAM: &str = "/bin/floor";
/// The same root for the floor.
const ROOT: &str = "/run/bench/root";
const FLOOR_ROUNDS: u32 = 10;
const EXECS_PER_ROUND: u32 = 10;

pub fn measure(
    vm: &Uvm,
    plan: &Plan,
    dir: &Path,
    doing: &mut impl FnMut(&str),
) -> Result<Vec<Figure>, BenchError> {
    doing("making the container's disks");
    let bench = Bench::new(vm, plan, dir)?;
    let floor_root = vm.mount_disk(&bench.layer, true, ROOT)?;
    let mut whole = Figure::new(WHOLE, Unit::Milliseconds)
        .against("clone into namespaces, enter the root, exec, wait", 4.0)
        .within(80.0);
    let mut create = Figure::new(CREATE, Unit::Milliseconds);
    let mut run = Figure::new(RUN, Unit::Milliseconds);
    let mut exec = Figure::new(EXEC, Unit::Milliseconds)
        .against("setns, exec and wait in the guest", 3.0)
        .within(30.0);
    let mut stdout = Figure::new(STDOUT, Unit::MebibytesPerSecond).against(stream::AGAINST, 0.8);

    for round in 1..=plan.rounds {
        doing(&format!("containers, round {round} of {}", plan.rounds));
        let floor = floor_rounds(vm, &["contain"], FLOOR_ROUNDS, &[ROOT, PROGRAM])?;
        whole.floor.push(floor);
        let times = bench.one(&format!("bench-{round}"))?;
        whole.samples.push(each(times.whole, 1));
        create.samples.push(each(times.create, 1));
        run.samples.push(each(times.run, 1));

        stdout.floor.push(stream::floor(vm)?);
        let bytes = stream::BYTES.to_string();
        let id = format!("bench-out-{round}");
        let container = bench.create(&id, &["fill", &bytes])?;
        stdout.samples.push(stream::stdout_of(container.init())?);
        vm.wait_notification(&id, LIMIT)?;
        bench.clear(&container)?;

        let id = format!("bench-in-{round}");
        let container = bench.create(&id, &["wait"])?;
        let (floor, ours) = bench.execs(&container)?;
        exec.floor.push(floor);
        exec.samples.push(ours);
        bench.clear(&container)?;
    }
    vm.unmount_disk(&floor_root)?;
    Ok(vec![whole, create, run, exec, stdout])
}

struct Bench<'a> {
    vm: &'a Uvm,
    layer: std::path::PathBuf,
    scratch: std::path::PathBuf,
}

struct Times {
    whole: Duration,
    create: Duration,
    run: Duration,
}

impl<'a> Bench<'a> {
    /// One layer that holds the floor program and nothing else, and a scratch disk.
    fn new(vm: &'a Uvm, plan: &Plan, dir: &Path) -> Result<Self, BenchError> {
        let root = dir.join("root");
        let copied = ["bin", "proc", "sys", "dev", "etc"]
            .iter()
            .try_for_each(|name| std::fs::create_dir_all(root.join(name)))
            .and_then(|()| std::fs::copy(&plan.floor, root.join("bin/floor")));
        copied.map_err(BenchError::io("making the container's root"))?;
        let cache = Cache::open(Some(&dir.join("layers")))?;
        let image = uvm_images::load(&root, &cache)?;
        let layer = image.layers.last().map(|layer| layer.path.clone());
        let scratch = dir.join("scratch.img");
        cache.scratch(64 << 20, &scratch)?;
        Ok(Self {
            vm,
            layer: layer.ok_or_else(|| BenchError::Files("the image has no layer".into()))?,
            scratch,
        })
    }

    /// Plugs the disks in. That is QEMU's time, not the guest's.
    fn plug(&self, id: &str) -> Result<Rootfs, BenchError> {
        Ok(Rootfs::plug(self.vm, id, &self.scratch, &[&self.layer])?)
    }

    fn spec(id: &str, args: &[&str]) -> Value {
        let args = [PROGRAM].iter().chain(args).map(|arg| (*arg).to_owned());
        let process = uvm_images::Process {
            args: Some(args.collect()),
            ..uvm_images::Process::default()
        };
        uvm_images::standalone(&ImageConfig::default(), &process, &root(id))
    }

    /// A container whose init has not been started.
    fn create(&self, id: &str, args: &[&str]) -> Result<Container, BenchError> {
        let container = Container::mount(self.vm.host(), id, self.plug(id)?)?;
        container.create(&Self::spec(id, args))?;
        container.start()?;
        Ok(container)
    }

    /// A container that exits at once.
    fn one(&self, id: &str) -> Result<Times, BenchError> {
        let rootfs = self.plug(id)?;
        let spec = Self::spec(id, &["true"]);
        let started = Instant::now();
        let container = Container::mount(self.vm.host(), id, rootfs)?;
        let creating = Instant::now();
        container.create(&spec)?;
        let create = creating.elapsed();
        let running = Instant::now();
        container.start()?;
        let launch = container.init().without_stdout().without_stderr();
        succeeds(launch, &[PROGRAM, "true"])?;
        self.vm.wait_notification(id, LIMIT)?;
        let times = Times {
            whole: started.elapsed(),
            create,
            run: running.elapsed(),
        };
        self.clear(&container)?;
        Ok(times)
    }

    /// Milliseconds of the floor and of the guest for a process in a running container.
    fn execs(&self, container: &Container) -> Result<(f64, f64), BenchError> {
        let init = container.init().without_stdout().without_stderr().start()?;
        let pid = init.pid.to_string();
        let words = [PROGRAM, "true"];
        let process = json!({"args": words, "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}});
        let exec = || {
            let launch = container.exec(&process);
            succeeds(launch.without_stdout().without_stderr(), &words)
        };
        exec()?;
        let floor = floor_rounds(self.vm, &["join", &pid], EXECS_PER_ROUND, &[PROGRAM])?;
        let started = Instant::now();
        for _ in 0..EXECS_PER_ROUND {
            exec()?;
        }
        let ours = each(started.elapsed(), EXECS_PER_ROUND);
        init.signal(nix::libc::SIGKILL)?;
        self.vm.wait_notification(container.id(), LIMIT)?;
        Ok((floor, ours))
    }

    /// Removes one that has ended.
    fn clear(&self, container: &Container) -> Result<(), BenchError> {
        for address in container.release()? {
            self.vm.unplug_disk(address)?;
        }
        Ok(())
    }
}
