//! `uvm bench`: what the guest costs, beside what the machine itself costs.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::progress::{log_to_stderr, Progress};
use super::VmOptions;
use uvm_bench::{report, Peer, Plan};
use uvm_vm::choice;
use uvm_vm::QEMU;

// Refusals are part of what is measured, and nobody needs the warning about a missing clock.
#[derive(Debug, Args)]
#[command(mut_arg("log_level", |arg| arg.default_value("error")))]
pub struct Bench {
    #[command(flatten)]
    vm: VmOptions,
    /// The floor program, which `make bench` builds
    #[arg(long, default_value = "out/floor", value_name = "FILE")]
    floor: PathBuf,
    /// The QEMU plugin that counts the guest's instructions, which `make bench` builds
    #[arg(long, default_value = "out/counter.so", value_name = "FILE")]
    counter: PathBuf,
    /// The guest's binary, for its size
    #[arg(long, default_value = "out/init", value_name = "FILE")]
    init: PathBuf,
    /// Turns of guest and floor; medians count
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Only figures whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write all samples to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw how much of each budget is used
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Fail when a figure is over its budget
    #[arg(long)]
    check: bool,
}

impl Bench {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::ensure!(
            self.floor.is_file(),
            "there is no floor program at {}: build it with qemu/bench/floor/build.sh {0}",
            self.floor.display()
        );
        let progress = Progress::new();
        log_to_stderr(&progress, self.vm.log_filter());
        let log = self.vm.sinks(&progress);
        let counter = self.counter.canonicalize().inspect_err(|e| {
            let path = self.counter.display();
            progress.line(&format!(
                "SKIPPED: instructions are not counted: {path}: {e}"
            ));
        });
        let peer = Peer::find().inspect_err(|why| {
            progress.line(&format!("SKIPPED: no third column: {why}"));
        });
        let plan = Plan {
            profile: self.vm.profile()?,
            accel: self.vm.accel,
            floor: self.floor,
            counter: counter.ok(),
            peer: peer.ok(),
            init: Some(self.init),
            rounds: self.rounds,
            filter: self.filter,
            log: Some(Box::new(log)),
        };
        let outcome = uvm_bench::run(&plan, |what| {
            log::info!("{what}");
            progress.doing(what);
        });
        progress.done();
        let figures = outcome?;
        super::output::line(report::table(&figures).trim_end())?;
        if let Some(path) = &self.json {
            let document = json!({
                "machine": machine(&plan),
                "rounds": plan.rounds,
                "figures": figures.iter().map(|figure| {
                    let mut value = json!(figure);
                    value["median"] = json!(figure.value());
                    value["floor_median"] = json!(figure.floor_value());
                    value["peer_median"] = json!(figure.peer_value());
                    value["ratio"] = json!(figure.ratio());
                    value["holds"] = json!(figure.holds());
                    value
                }).collect::<Vec<_>>(),
            });
            write(path, &format!("{document:#}\n"))?;
        }
        if let Some(path) = &self.svg {
            write(path, &report::svg(&figures))?;
        }
        let over = figures.iter().any(|figure| figure.holds() == Some(false));
        Ok(match self.check && over {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// What the figures depend on and a reader cannot see from them.
fn machine(plan: &Plan) -> serde_json::Value {
    let qemu = Command::new(QEMU).arg("--version").output().ok();
    let qemu = qemu.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = qemu.as_deref().and_then(|text| text.lines().next());
    json!({
        "qemu": version,
        "accelerator": choice::accel(plan.accel, &plan.profile.kernel).chosen.name(),
        "vsock": format!("{:?}", choice::vsock(plan.profile.vsock).chosen),
        "machine": format!("{:?}", plan.profile.machine),
        "host_cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "cpus": plan.profile.cpus,
        "memory_mib": plan.profile.memory_mib,
    })
}
