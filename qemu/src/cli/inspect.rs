//! `uvm ps`, `stats`, `logs` and `stacks`: what runs, what it uses, what it has logged, and what it
//! is doing.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::{json, Value};

use super::client::Which;
use super::output::{line, table, visible};
use crate::control::wire::{Attach, Reply, Request, Status};
use crate::control::{Client, ControlError, Directory};
use uvm_host::log::{Level, Record};

#[derive(Debug, Args)]
pub struct Ps {
    /// The containers and attachments of this VM, instead of all VMs
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match &self.vm {
            Some(name) => self.one(name)?,
            None => self.all()?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn all(&self) -> anyhow::Result<()> {
        let mut all = Vec::new();
        for name in Directory::of_user().names()? {
            match Client::connect(Some(&name)).and_then(status) {
                Ok(status) => all.push(status),
                // It ended meanwhile.
                Err(ControlError::Gone { .. } | ControlError::Unknown { .. }) => {}
                Err(e) => eprintln!("uvm: {}", visible(&e.to_string())),
            }
        }
        if self.json {
            line(serde_json::to_string_pretty(&all)?)?;
            return Ok(());
        }
        let row = |vm: &Status| {
            vec![
                vm.name.clone(),
                vm.command.clone(),
                vm.pid.to_string(),
                age(vm.up_seconds),
                format!("{} MiB", vm.memory_mib),
                vm.containers.len().to_string(),
                vm.attachments.len().to_string(),
            ]
        };
        let rows: Vec<Vec<String>> = all.iter().map(row).collect();
        let head = [
            "NAME",
            "COMMAND",
            "PID",
            "UP",
            "MEMORY",
            "CONTAINERS",
            "ATTACHED",
        ];
        Ok(table(&head, &rows)?)
    }

    fn one(&self, name: &str) -> anyhow::Result<()> {
        let status = status(Client::connect(Some(name))?)?;
        let asked = Client::connect(Some(name))?.ask(&Request::Processes)?;
        let Reply::Processes(containers) = asked else {
            bail!("VM {name} answered something else than processes");
        };
        if self.json {
            let containers: Vec<Value> = containers
                .iter()
                .map(|(id, pids)| json!({"id": id, "pids": pids}))
                .collect();
            let all = json!({"status": status, "containers": containers});
            line(format_args!("{all:#}"))?;
            return Ok(());
        }
        let list = |pids: &[u32]| {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            pids.join(" ")
        };
        let rows: Vec<Vec<String>> = containers
            .iter()
            .map(|(id, pids)| vec![id.clone(), list(pids)])
            .collect();
        table(&["CONTAINER", "PROCESSES (BY PID IN THE VM)"], &rows)?;
        if !status.attachments.is_empty() {
            line("")?;
            let rows: Vec<Vec<String>> = status.attachments.iter().map(attachment).collect();
            table(&["ATTACHED", "KIND", "FROM", "ACCESS", "CONTAINER"], &rows)?;
        }
        Ok(())
    }
}

fn attachment(attached: &Attach) -> Vec<String> {
    let access = if attached.read_only { "ro" } else { "rw" };
    vec![
        attached.target.path.clone(),
        attached.kind.name().to_owned(),
        attached.source.clone(),
        access.to_owned(),
        attached.target.container.clone().unwrap_or_default(),
    ]
}

fn status(client: Client) -> Result<Status, ControlError> {
    let name = client.name().to_owned();
    match client.ask(&Request::Status)? {
        Reply::Status(status) => Ok(status),
        other => Err(ControlError::Answer {
            name,
            got: format!("{other:?}"),
        }),
    }
}

/// In the largest unit that has more than one.
fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[derive(Debug, Args)]
pub struct Stats {
    #[command(flatten)]
    which: Which,
    /// Everything that the guest tells, as `LCOWMetrics` by container
    #[arg(long)]
    json: bool,
}

impl Stats {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.which.connect()?;
        let name = client.name().to_owned();
        let Reply::Statistics(all) = client.ask(&Request::Statistics)? else {
            bail!("VM {name} answered something else than statistics");
        };
        if self.json {
            let all: serde_json::Map<String, Value> = all
                .into_iter()
                .map(|(id, mut properties)| (id, properties["LCOWMetrics"].take()))
                .collect();
            line(format_args!("{:#}", Value::Object(all)))?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<Vec<String>> = all
            .iter()
            .map(|(id, properties)| statistics(id, &properties["LCOWMetrics"]))
            .collect();
        let head = [
            "CONTAINER",
            "CPU TIME",
            "MEMORY",
            "LIMIT",
            "PIDS",
            "READ",
            "WRITTEN",
        ];
        table(&head, &rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn statistics(id: &str, metrics: &Value) -> Vec<String> {
    let number = |path: &str| metrics.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let moved = |operation: &str| {
        let entries = metrics.pointer("/blkio/io_service_bytes_recursive");
        let entries = entries.and_then(Value::as_array).into_iter().flatten();
        let ours = entries.filter(|entry| {
            let op = entry["op"].as_str().unwrap_or_default();
            op.eq_ignore_ascii_case(operation)
        });
        mebibytes(ours.filter_map(|entry| entry["value"].as_u64()).sum())
    };
    // Without a limit the kernel says the largest multiple of a page.
    let limit = match number("/memory/usage/limit") {
        0 => "none".into(),
        limit if limit >> 60 > 0 => "none".into(),
        limit => mebibytes(limit),
    };
    vec![
        id.to_owned(),
        format!("{:.2} s", number("/cpu/usage/total") as f64 / 1e9),
        mebibytes(number("/memory/usage/usage")),
        limit,
        number("/pids/current").to_string(),
        moved("read"),
        moved("write"),
    ]
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[derive(Debug, Args)]
pub struct Logs {
    #[command(flatten)]
    which: Which,
    /// Wait for more until the VM ends
    #[arg(long, short)]
    follow: bool,
    /// Only from this level on
    #[arg(long, default_value = "trace", value_name = "LEVEL", value_parser = super::options::level())]
    log_level: Level,
    /// As they came, one JSON object per line
    #[arg(long)]
    json: bool,
}

impl Logs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.which.connect()?;
        let mut failed = None;
        client.logs(self.follow, |reply| match self.show(reply) {
            Ok(go_on) => go_on,
            Err(e) => {
                failed = Some(e);
                false
            }
        })?;
        failed.map_or(Ok(ExitCode::SUCCESS), Err)
    }

    /// Whether anybody still reads.
    fn show(&self, reply: Reply) -> anyhow::Result<bool> {
        let Reply::Logs { records, missed } = reply else {
            bail!("the VM answered something else than log records");
        };
        if missed > 0 {
            eprintln!("uvm: {missed} older records are not kept any more");
        }
        for value in records {
            let record = Record::from_value(value.clone()).map_err(anyhow::Error::msg)?;
            if record.level > self.log_level {
                continue;
            }
            let shown = match self.json {
                true => value.to_string(),
                false => format!("{} {record}", record.time),
            };
            if !line(shown)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[derive(Debug, Args)]
pub struct Stacks {
    #[command(flatten)]
    which: Which,
}

impl Stacks {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.which.connect()?;
        let name = client.name().to_owned();
        let Reply::Text(text) = client.ask(&Request::Stacks)? else {
            bail!("VM {name} answered something else than stacks");
        };
        line(text.trim_end())?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_from_the_metrics() {
        let metrics = json!({
            "cpu": {"usage": {"total": 1_500_000_000_u64}},
            "memory": {"usage": {"usage": 3 << 20, "limit": u64::MAX >> 1}},
            "pids": {"current": 2},
            "blkio": {"io_service_bytes_recursive": [
                {"op": "Read", "value": 1 << 20}, {"op": "Read", "value": 1 << 19},
                {"op": "Write", "value": 0}]}});
        assert_eq!(
            statistics("c", &metrics),
            ["c", "1.50 s", "3.0 MiB", "none", "2", "1.5 MiB", "0.0 MiB"]
        );
    }

    #[test]
    fn ages_have_one_unit() {
        let ages = [119, 120, 7199, 7200, 172_800].map(age);
        assert_eq!(ages, ["119 s", "2 min", "119 min", "2 h", "2 days"]);
    }
}
