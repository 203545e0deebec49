//! The command line of OCI runtimes on the guest's engine, so that public validation suites,
//! containerd and podman can drive it as root on a development machine.
//!
//! ```text
//! create ─ task ─ engine ─▶ init, waiting at a FIFO      state directory: spec, pid, FIFO
//! start ─ a byte into the FIFO      exec ─ task ─ engine      kill, delete ─ control group
//! ```
//!
//! PID 1 keeps what belongs to a container in its memory. This program ends with each command, so
//! it keeps that in files below `--root`, which is its own affair and no part of the engine.

#![allow(clippy::disallowed_methods)] // A command on a development machine, not PID 1: it may block.

mod command;
mod record;
mod task;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

/// The flags and commands of runc, as far as managers and suites use them.
#[derive(Debug, Parser)]
#[command(name = "oci-runtime", version)]
struct Cli {
    /// Where the state of containers is kept
    #[arg(long, default_value = "/run/oci-runtime", value_name = "DIR")]
    root: PathBuf,
    /// Write errors to this file too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// Accepted, as managers give it
    #[arg(long)]
    debug: bool,
    /// Refused: the engine makes control groups itself
    #[arg(long)]
    systemd_cgroup: bool,
    #[command(subcommand)]
    command: command::Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = if cli.systemd_cgroup {
        Err(anyhow::anyhow!(
            "--systemd-cgroup: the engine makes control groups itself; choose the manager's cgroupfs driver"
        ))
    } else {
        cli.command.run(&cli.root)
    };
    done.unwrap_or_else(|error| {
        let text = format!("{error:#}");
        eprintln!("oci-runtime: {text}");
        if let Some(path) = &cli.log {
            let line = match cli.log_format.as_str() {
                "json" => json!({"level": "error", "msg": text}).to_string(),
                _ => format!("level=error msg={text:?}"),
            };
            let file = OpenOptions::new().create(true).append(true).open(path);
            if let Err(e) = file.and_then(|mut file| writeln!(file, "{line}")) {
                eprintln!("oci-runtime: write {}: {e}", path.display());
            }
        }
        ExitCode::FAILURE
    })
}
