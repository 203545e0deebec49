//! `uvm conformance`: runs the checklist of the protocol against a kernel and an initrd.
//!
//! Exit codes: 0 without a fail, 1 with one, 2 for a wrong command line, 125 when no VM comes up.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;

use super::progress::{log_to_stderr, Progress};
use super::{output, VmOptions};
use uvm_conformance::{lines, name, task, Order, Selection, Task};

/// clap's own code for a wrong command line.
const USAGE: u8 = 2;

#[derive(Debug, Args)]
#[command(mut_arg("log_level", |arg| arg.default_value("panic")))]
pub struct Conformance {
    #[command(flatten)]
    vm: VmOptions,
    /// Only these lines: P-007, a prefix (P-15), a range (P-150-170), or part of a title or area;
    /// may be given several times
    #[arg(long, value_name = "LINES")]
    filter: Vec<String>,
    /// Show the lines and what there is for them, and run nothing
    #[arg(long)]
    list: bool,
    /// Stop at the first fail
    #[arg(long)]
    fail_fast: bool,
    /// VMs at once [default: the processors of this machine]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
    /// Write the outcomes as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the outcomes as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Where the disk with the tools is kept [default: lcow-uvm/layers in the user's cache directory]
    #[arg(long, env = "UVM_LAYER_CACHE", value_name = "DIRECTORY")]
    cache_dir: Option<PathBuf>,
}

impl Conformance {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let selection = match Selection::new(&self.filter, |id| task(id).1) {
            Ok(selection) => selection,
            Err(e) => {
                eprintln!("uvm: {e}");
                return Ok(USAGE.into());
            }
        };
        if self.list {
            list(&selection)?;
            return Ok(ExitCode::SUCCESS);
        }
        let progress = Progress::new();
        log_to_stderr(&progress, self.vm.log_filter());
        let profile = self.vm.profile()?;
        let about = json!({"kernel": profile.kernel, "initrd": profile.initrd()});
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let order = Order {
            profile,
            accel: self.vm.accel,
            selection,
            jobs: self.jobs.map_or(cores, usize::from),
            fail_fast: self.fail_fast,
            cache: self.cache_dir,
            log: Some(Box::new(self.vm.sinks(&progress))),
        };
        progress.doing("running the checklist");
        let mut output = Ok(());
        let report = uvm_conformance::run(order, |outcome| {
            if output.is_ok() {
                // A pipe that nobody reads any more stops the lines, not the run.
                output = writeln!(std::io::stdout(), "{outcome}");
            }
        });
        progress.done();
        let report = report?;
        let table = || writeln!(std::io::stdout(), "\n{}", report.table().trim_end());
        let output = output.and_then(|()| table());
        if let Some(path) = &self.json {
            write(path, &format!("{:#}\n", report.json(&about)))?;
        }
        if let Some(path) = &self.junit {
            write(path, &report.junit()?)?;
        }
        output.context("writing the outcomes")?;
        Ok(match report.counts(None).fail {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

fn list(selection: &Selection) -> std::io::Result<()> {
    for line in lines() {
        let (task, area) = task(line.id);
        if selection.wants(&line, area) {
            let (id, level) = (name(line.id), line.level.name());
            let only = if line.hyper_v { " (Hyper-V)" } else { "" };
            let skip = match task {
                Task::Run(_) => String::new(),
                Task::Skip(why) => format!("; not run: {why}"),
            };
            let title = line.title;
            if !output::line(format_args!("{id} {level:6} {area}: {title}{only}{skip}"))? {
                break;
            }
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
