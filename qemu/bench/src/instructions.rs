//! The same work counted in instructions of the guest, which do not depend on the machine's load.
//! In VMs of their own: the counter slows QEMU down.

use std::path::Path;

use serde_json::{json, Value};

use super::container::{self, Bench};
use super::guest;
use super::meter::{Counter, Meter};
use super::spec::{spec, ROOT};
use super::storage::{self, DISKS};
use super::{BenchError, Figure, Plan, Unit};
use uvm::container::{root, Container, Rootfs};
use uvm::Uvm;
use uvm_images::Cache;

const CONTAINER: &str = "instructions: container";
const EXEC: &str = "instructions: exec in a container";
const FILTERED: &str = "instructions: added by seccomp, container";
const FILTERED_EXEC: &str = "instructions: added by seccomp, exec";
const PROCESS: &str = "instructions: process of the UVM";
const REQUEST: &str = "instructions: bridge request, log at debug";
const QUIET: &str = "instructions: bridge request, log at info";
const MANY: &str = "instructions: SCSI attach, 32 at once, each";
const BESIDE: &str = "instructions: added to create by 128 others";
const LOUD: [&str; 8] = [
    CONTAINER,
    EXEC,
    FILTERED,
    FILTERED_EXEC,
    PROCESS,
    REQUEST,
    MANY,
    BESIDE,
];
pub const NAMES: [&str; 9] = [
    LOUD[0], LOUD[1], LOUD[2], LOUD[3], LOUD[4], LOUD[5], QUIET, LOUD[6], LOUD[7],
];

const REQUESTS: u32 = 100;
/// Containers of a round; the first warms up.
const TURNS: u32 = 5;
const OTHERS: usize = 128;
/// Where containers that need no disks of their own write.
const SCRATCH: &str = "/run/bench-scratch";

/// What container engines let a container call by default; `clone`, `clone3` and `personality`
/// depend on their arguments.
fn profile() -> Value {
    let plain: Vec<&str> = include_str!("seccomp.txt").split_whitespace().collect();
    let mut calls = vec![
        json!({"names": plain, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args":
            [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
    ];
    calls.extend([0_u64, 8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(|value| {
        json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]})
    }));
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": calls,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]})
}

/// Measures what the plan wants. Without the plugin the figures are there without samples, which
/// the table says.
pub fn measure(
    plan: &Plan,
    initrd: &Path,
    dir: &Path,
    doing: &mut impl FnMut(&str),
) -> Result<Vec<Figure>, BenchError> {
    let figure = |name| Figure::new(name, Unit::Kiloinstructions);
    let mut figures = vec![
        figure(CONTAINER)
            .against(container::AGAINST, 1.8)
            .within(8000.0)
            .beside_peer(0.7),
        figure(EXEC)
            .against(container::AGAINST_EXEC, 3.0)
            .within(1500.0),
        figure(FILTERED).within(1000.0),
        figure(FILTERED_EXEC).within(1000.0),
        figure(PROCESS)
            .against("vfork, exec and wait in the guest", 3.3)
            .within(500.0),
        figure(REQUEST).within(90.0),
        figure(MANY).against("the events of the disks and their mounts, in a loop", 1.3),
        figure(BESIDE).within(300.0),
        figure(QUIET).within(60.0),
    ];
    let Some(plugin) = &plan.counter else {
        return Ok(figures);
    };
    if plan.wants_any(&LOUD) {
        let (vm, mut meter) = boot(plan, plugin, initrd, dir, "debug", doing)?;
        Loud {
            vm: &vm,
            plan,
            dir,
            meter: &mut meter,
        }
        .measure(&mut figures, doing)?;
        vm.power_off()?;
    }
    if plan.wants(QUIET) {
        let (vm, mut meter) = boot(plan, plugin, initrd, dir, "info", doing)?;
        requests(&vm, plan, &mut meter, of(&mut figures, QUIET))?;
        vm.power_off()?;
    }
    Ok(figures)
}

fn boot(
    plan: &Plan,
    plugin: &Path,
    initrd: &Path,
    dir: &Path,
    level: &str,
    doing: &mut impl FnMut(&str),
) -> Result<(Uvm, Meter), BenchError> {
    doing(&format!("booting to count instructions, log at {level}"));
    let socket = dir.join(format!("counter-{level}"));
    let vm = plan.boot_with(initrd, |profile| {
        level.clone_into(&mut profile.guest_log_level);
        profile.memory_mib = profile.memory_mib.max(1024);
        let arguments = Counter::arguments(plugin, &socket);
        profile.qemu_arguments.extend(arguments);
    })?;
    let counter = Counter::connect(&socket)?;
    Ok((vm, Meter::Counter(counter)))
}

fn of<'a>(figures: &'a mut [Figure], name: &str) -> &'a mut Figure {
    let at = figures.iter().position(|figure| figure.name == name);
    &mut figures[at.expect("every name has a figure")]
}

fn requests(
    vm: &Uvm,
    plan: &Plan,
    meter: &mut Meter,
    figure: &mut Figure,
) -> Result<(), BenchError> {
    guest::request(vm)?;
    for _ in 0..plan.rounds {
        let each = meter.each(REQUESTS, || guest::request(vm))?;
        figure.samples.push(each);
    }
    Ok(())
}

/// What is measured in the VM whose guest logs all.
struct Loud<'a> {
    vm: &'a Uvm,
    plan: &'a Plan,
    dir: &'a Path,
    meter: &'a mut Meter,
}

impl Loud<'_> {
    fn measure(
        &mut self,
        figures: &mut [Figure],
        doing: &mut impl FnMut(&str),
    ) -> Result<(), BenchError> {
        if self.plan.wants(REQUEST) {
            doing("counting a request");
            requests(self.vm, self.plan, self.meter, of(figures, REQUEST))?;
        }
        if self.plan.wants(PROCESS) {
            doing("counting a process of the UVM");
            for _ in 0..self.plan.rounds {
                let (floor, ours) = guest::process_of(self.vm, self.meter)?;
                let figure = of(figures, PROCESS);
                figure.floor.push(floor);
                figure.samples.push(ours);
            }
        }
        let bench = Bench::new(self.vm, self.plan, self.dir)?;
        let names = [CONTAINER, EXEC, FILTERED, FILTERED_EXEC];
        for round in 1..=self.plan.rounds {
            if self.plan.wants_any(&names) {
                doing(&format!("counting containers, round {round}"));
                self.containers(figures, round)?;
            }
        }
        if self.plan.wants(BESIDE) {
            doing("counting a create beside 128 containers");
            self.beside(of(figures, BESIDE))?;
        }
        self.vm.unmount_disk(&bench.root)?;
        if self.plan.wants(MANY) {
            doing("counting disks");
            self.disks(of(figures, MANY))?;
        }
        Ok(())
    }

    fn containers(&mut self, figures: &mut [Figure], round: u32) -> Result<(), BenchError> {
        let plain = container::floor(self.vm, self.meter, &[])?;
        let filtered = container::floor(self.vm, self.meter, &["filter"])?;
        of(figures, CONTAINER).floor.push(plain);
        of(figures, FILTERED).floor.push(filtered - plain);
        if self.plan.peer.is_some() {
            let figure = of(figures, CONTAINER);
            figure.peer.push(container::crun(self.vm, self.meter)?);
            let figure = of(figures, EXEC);
            figure.peer.push(container::crun_exec(self.vm, self.meter)?);
        }
        let mut last = None;
        for (name, with) in [("plain", Value::Null), ("filtered", profile())] {
            let (mut cycles, mut execs) = (0.0, (0.0, 0.0));
            for turn in 0..=TURNS {
                let (container, spec) = self.mounted(&format!("{name}-{round}-{turn}"), "true")?;
                let (create, run) = self.cycle(&container, with.clone(), spec)?;
                if turn > 0 {
                    cycles += (create + run) / f64::from(TURNS);
                }
                container.release()?;
            }
            let (container, mut spec) = self.mounted(&format!("{name}-{round}-in"), "wait")?;
            spec["linux"]["seccomp"] = with.clone();
            container.create(&spec)?;
            container.start()?;
            let words: &[&str] = if with.is_null() { &[] } else { &["filter"] };
            let (floor, ours) = container::execs(self.vm, &container, self.meter, words)?;
            execs.0 += floor;
            execs.1 += ours;
            container.release()?;
            match last.replace((cycles, execs)) {
                None => {
                    of(figures, CONTAINER).samples.push(cycles);
                    of(figures, EXEC).samples.push(execs.1);
                    of(figures, EXEC).floor.push(execs.0);
                }
                Some((plain, (floor, exec))) => {
                    of(figures, FILTERED).samples.push(cycles - plain);
                    of(figures, FILTERED_EXEC).samples.push(execs.1 - exec);
                    of(figures, FILTERED_EXEC).floor.push(execs.0 - floor);
                }
            }
        }
        Ok(())
    }

    /// Of the directory that the floor uses, so that no disk is in the figure.
    fn mounted(&self, id: &str, word: &str) -> Result<(Container, Value), BenchError> {
        let rootfs = Rootfs::of_directories(&[ROOT], &format!("{SCRATCH}/{id}"));
        let container = Container::mount(self.vm.host(), id, rootfs)?;
        Ok((container, spec(&root(id), &[word])))
    }

    fn cycle(
        &mut self,
        container: &Container,
        seccomp: Value,
        mut spec: Value,
    ) -> Result<(f64, f64), BenchError> {
        if !seccomp.is_null() {
            spec["linux"]["seccomp"] = seccomp;
        }
        container::cycle(self.vm, container, &spec, self.meter)
    }

    fn beside(&mut self, figure: &mut Figure) -> Result<(), BenchError> {
        let mut others = Vec::new();
        let alone = self.creates("alone")?;
        for number in 0..OTHERS {
            let (container, spec) = self.mounted(&format!("other-{number}"), "wait")?;
            container.create(&spec)?;
            container.start()?;
            let init = container.init().without_stdout().without_stderr().start()?;
            others.push((container, init));
        }
        let beside = self.creates("beside")?;
        let added = alone
            .iter()
            .zip(beside)
            .map(|(alone, beside)| beside - alone);
        figure.samples.extend(added);
        for (container, init) in others {
            init.signal(nix::libc::SIGKILL)?;
            self.vm
                .wait_notification(container.id(), super::floor::LIMIT)?;
            container.release()?;
        }
        Ok(())
    }

    /// What each of some creates takes.
    fn creates(&mut self, name: &str) -> Result<Vec<f64>, BenchError> {
        let mut taken = Vec::new();
        for turn in 0..=self.plan.rounds {
            let (container, spec) = self.mounted(&format!("{name}-{turn}"), "true")?;
            let (create, _) = self.cycle(&container, Value::Null, spec)?;
            container.release()?;
            if turn > 0 {
                taken.push(create);
            }
        }
        Ok(taken)
    }

    fn disks(&mut self, figure: &mut Figure) -> Result<(), BenchError> {
        let cache = Cache::open(Some(&self.dir.join("layers")))?;
        let file = self.dir.join("counted.img");
        cache.scratch(16 << 20, &file)?;
        for _ in 0..self.plan.rounds {
            let floor = storage::arrive(self.vm, &file, DISKS, self.meter)?;
            let ours = storage::attach(self.vm, &file, DISKS, self.meter)?;
            figure.floor.push(floor / DISKS as f64);
            figure.samples.push(ours / DISKS as f64);
        }
        Ok(())
    }
}
