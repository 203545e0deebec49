//! Whole containers, from SCSI disks to the exit notification, as a host runs them.

use std::path::Path;

use serde_json::{json, Value};

use super::floor::{succeeds, LIMIT};
use super::meter::Meter;
use super::peer;
use super::spec::{spec, PROGRAM, ROOT};
use super::{stream, BenchError, Figure, Plan, Unit};
use uvm::container::{root, Container, Rootfs};
use uvm::Uvm;
use uvm_host::MappedVirtualDisk;
use uvm_images::{Cache, Platform};

const CONTAINER: &str = "container, Create to exit reported";
const CREATE: &str = "  of it: create";
const RUN: &str = "  of it: start to exit reported";
const WHOLE: &str = "container, disks to exit";
const EXEC: &str = "exec in a container";
const STDOUT: &str = "stdout of a container";
pub const NAMES: [&str; 6] = [CONTAINER, CREATE, RUN, WHOLE, EXEC, STDOUT];
/// What the floor does for a container and for a process in one.
pub const AGAINST: &str = "the default spec by bare system calls";
pub const AGAINST_EXEC: &str = "setns, limits, capabilities and exec by bare system calls";

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
    let time = |name| Figure::new(name, Unit::Milliseconds);
    let mut container = time(CONTAINER).against(AGAINST, 1.6).beside_peer(0.7);
    let mut create = time(CREATE);
    let mut run = time(RUN);
    let mut whole = time(WHOLE).within(80.0);
    let mut exec = time(EXEC).against(AGAINST_EXEC, 2.5).beside_peer(0.5);
    let mut stdout = Figure::new(STDOUT, Unit::MebibytesPerSecond).against(stream::PIPED, 0.95);
    let mut clock = Meter::clock();

    for round in 1..=plan.rounds {
        doing(&format!("containers, round {round} of {}", plan.rounds));
        container.floor.push(floor(vm, &mut clock, &[])?);
        if plan.peer.is_some() {
            container.peer.push(crun(vm, &mut clock)?);
            exec.peer.push(crun_exec(vm, &mut clock)?);
        }
        let taken = bench.one(&format!("bench-{round}"), &mut clock)?;
        container.samples.push(taken.create + taken.run);
        create.samples.push(taken.create);
        run.samples.push(taken.run);
        whole.samples.push(taken.mount + taken.create + taken.run);

        stdout.floor.push(stream::piped(vm)?);
        let bytes = stream::BYTES.to_string();
        let id = format!("bench-out-{round}");
        let filling = bench.create(&id, &["fill", &bytes])?;
        stdout.samples.push(stream::stdout_of(filling.init())?);
        vm.wait_notification(&id, LIMIT)?;
        bench.clear(&filling)?;

        let id = format!("bench-in-{round}");
        let waiting = bench.create(&id, &["wait"])?;
        let (floor, ours) = execs(vm, &waiting, &mut clock, &[])?;
        exec.floor.push(floor);
        exec.samples.push(ours);
        bench.clear(&waiting)?;
    }
    vm.unmount_disk(&bench.root)?;
    Ok(vec![container, create, run, whole, exec, stdout])
}

/// One container by bare system calls; `filter` as the last word loads a seccomp filter.
pub fn floor(vm: &Uvm, meter: &mut Meter, last: &[&str]) -> Result<f64, BenchError> {
    let after = [&[ROOT, PROGRAM], last].concat();
    meter.floor_rounds(vm, &["contain"], FLOOR_ROUNDS, &after)
}

/// One container by crun.
pub fn crun(vm: &Uvm, meter: &mut Meter) -> Result<f64, BenchError> {
    meter.floor_rounds(vm, &["peer"], FLOOR_ROUNDS, &[peer::EXITS])
}

/// One process by crun in a container that it made.
pub fn crun_exec(vm: &Uvm, meter: &mut Meter) -> Result<f64, BenchError> {
    meter.floor_rounds(vm, &["peer-exec"], EXECS_PER_ROUND, &[peer::STAYS, PROGRAM])
}

/// The floor and the guest for a process in a running container, which is then ended.
pub fn execs(
    vm: &Uvm,
    container: &Container,
    meter: &mut Meter,
    last: &[&str],
) -> Result<(f64, f64), BenchError> {
    let init = container.init().without_stdout().without_stderr().start()?;
    let pid = init.pid.to_string();
    let words = [PROGRAM, "true"];
    let process = json!({"args": words, "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}});
    let exec = || {
        let launch = container.exec(&process);
        succeeds(launch.without_stdout().without_stderr(), &words)
    };
    exec()?;
    let group = format!("/sys/fs/cgroup/containers/{}", container.id());
    let after = [&[PROGRAM, group.as_str()], last].concat();
    let floor = meter.floor_rounds(vm, &["join", &pid], EXECS_PER_ROUND, &after)?;
    let ours = meter.each(EXECS_PER_ROUND, exec)?;
    init.signal(nix::libc::SIGKILL)?;
    vm.wait_notification(container.id(), LIMIT)?;
    Ok((floor, ours))
}

/// Create to the reported exit of one that exits at once: what each part takes.
pub fn cycle(
    vm: &Uvm,
    container: &Container,
    spec: &Value,
    meter: &mut Meter,
) -> Result<(f64, f64), BenchError> {
    let create = meter.each(1, || Ok(container.create(spec)?))?;
    let run = meter.each(1, || {
        container.start()?;
        let launch = container.init().without_stdout().without_stderr();
        succeeds(launch, &[PROGRAM, "true"])?;
        vm.wait_notification(container.id(), LIMIT)?;
        Ok(())
    })?;
    Ok((create, run))
}

/// The disks that all containers of a bench are made of.
pub struct Bench<'a> {
    vm: &'a Uvm,
    layer: std::path::PathBuf,
    scratch: std::path::PathBuf,
    /// The layer mounted once more, for the floor.
    pub root: MappedVirtualDisk,
}

struct Taken {
    mount: f64,
    create: f64,
    run: f64,
}

impl<'a> Bench<'a> {
    /// One layer that holds the floor program and nothing else, and a scratch disk.
    pub fn new(vm: &'a Uvm, plan: &Plan, dir: &Path) -> Result<Self, BenchError> {
        let root = dir.join("root");
        // The floor binds the three files; it makes none in a root that it cannot write.
        let copied = ["bin", "proc", "sys", "dev", "etc"]
            .iter()
            .try_for_each(|name| std::fs::create_dir_all(root.join(name)))
            .and_then(|()| std::fs::copy(&plan.floor, root.join("bin/floor")))
            .and_then(|_| {
                ["hostname", "hosts", "resolv.conf"]
                    .iter()
                    .try_for_each(|name| std::fs::write(root.join("etc").join(name), ""))
            });
        copied.map_err(BenchError::io("making the container's root"))?;
        let cache = Cache::open(Some(&dir.join("layers")))?;
        let image = uvm_images::load(&root, &Platform::of_machine(), &cache)?;
        let layer = image.layers.last().map(|layer| layer.path.clone());
        let layer = layer.ok_or_else(|| BenchError::Files("the image has no layer".into()))?;
        let scratch = dir.join("scratch.img");
        cache.scratch(64 << 20, &scratch)?;
        let root = vm.mount_disk(&layer, true, ROOT)?;
        Ok(Self {
            vm,
            layer,
            scratch,
            root,
        })
    }

    /// Plugs the disks in. That is QEMU's time, not the guest's.
    fn plug(&self, id: &str) -> Result<Rootfs, BenchError> {
        Ok(Rootfs::plug(self.vm, id, &self.scratch, &[&self.layer])?)
    }

    /// A container whose init has not been started.
    fn create(&self, id: &str, args: &[&str]) -> Result<Container, BenchError> {
        let container = Container::mount(self.vm.host(), id, self.plug(id)?)?;
        container.create(&spec(&root(id), args))?;
        container.start()?;
        Ok(container)
    }

    /// A container that exits at once.
    fn one(&self, id: &str, meter: &mut Meter) -> Result<Taken, BenchError> {
        let rootfs = self.plug(id)?;
        let before = meter.read()?;
        let container = Container::mount(self.vm.host(), id, rootfs)?;
        let mount = meter.read()? - before;
        let (create, run) = cycle(self.vm, &container, &spec(&root(id), &["true"]), meter)?;
        self.clear(&container)?;
        Ok(Taken { mount, create, run })
    }

    /// Removes one that has ended.
    fn clear(&self, container: &Container) -> Result<(), BenchError> {
        for address in container.release()? {
            self.vm.unplug_disk(address)?;
        }
        Ok(())
    }
}
