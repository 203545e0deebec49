//! All requests except those of a process, and the log.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::server::{failure, Known, Owner, Urge};
use super::wire::{Attach, Channel, Reply, Request, Status, Stop, Target};
use uvm_host::{HostError, Tail};

/// The guest unmounts and syncs meanwhile.
const END_LIMIT: Duration = Duration::from_secs(60);
/// For the log to close after the end of the VM.
const LAST_RECORDS: Duration = Duration::from_secs(5);
/// How often a follower of the log gets what is new.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of log records in one answer; a record more may be in it, of 1 MiB.
const BATCH: usize = 1 << 20;

/// Sends the log records that are kept; with `follow` also those that come, until the VM or the
/// reader ends.
pub(super) fn logs(owner: &Owner, channel: &Channel, follow: bool) {
    let limit = if follow { LOOK } else { Duration::ZERO };
    let mut from = 0;
    let mut deadline = None;
    loop {
        let over = owner.vm.log_is_over() || deadline.is_some_and(|at| Instant::now() >= at);
        let tail = owner.vm.wait_log_from(from, limit);
        from = tail.next;
        // It is sent even when it is empty, which shows whether the reader is gone.
        if send(&tail, channel).is_err() || over || !follow {
            return;
        }
        if owner.vm.ended().is_some() {
            // The last records are on their way from the socket; nothing waits once the VM has ended.
            deadline.get_or_insert_with(|| Instant::now() + LAST_RECORDS);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn send(tail: &Tail, channel: &Channel) -> std::io::Result<()> {
    let mut missed = tail.missed;
    let mut rest = tail.records.iter();
    loop {
        let (mut records, mut bytes) = (Vec::new(), 0);
        for record in rest.by_ref() {
            let value = record.to_value();
            bytes += value.to_string().len();
            records.push(value);
            if bytes >= BATCH {
                break;
            }
        }
        let last = bytes < BATCH;
        channel.send(&Reply::Logs { records, missed })?;
        missed = 0;
        if last {
            return Ok(());
        }
    }
}

impl Owner {
    pub(super) fn handle(&self, request: Request) -> Reply {
        let done = |outcome: Result<(), String>| match outcome {
            Ok(()) => Reply::Done,
            Err(message) => failure(message),
        };
        match request {
            Request::Status => Reply::Status(self.status()),
            Request::Attach(order) => done(self.attach(order)),
            Request::Detach(target) => done(self.detach(target)),
            Request::Processes => match self.properties("ProcessList") {
                Ok(all) => Reply::Processes(
                    all.into_iter()
                        .map(|(id, properties)| (id, pids(&properties)))
                        .collect(),
                ),
                Err(e) => failure(e.to_string()),
            },
            Request::Statistics => match self.properties("Statistics") {
                Ok(all) => Reply::Statistics(all),
                Err(e) => failure(e.to_string()),
            },
            Request::Stacks => match self.vm.dump_stacks() {
                Ok(text) => Reply::Text(text),
                Err(e) => failure(e.to_string()),
            },
            Request::Stop(stop) => done(self.stop(&stop)),
            Request::Exec(_) | Request::Logs { .. } => failure("this is no place for it"),
            Request::Signal { .. } | Request::Resize { .. } => {
                failure("there is no process on this connection")
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            name: self.name.to_string(),
            pid: std::process::id(),
            command: self.command.to_owned(),
            up_seconds: self.started.elapsed().as_secs(),
            memory_mib: self.vm.memory_mib(),
            containers: self.vm.containers(),
            attachments: self.listed(),
        }
    }

    fn attach(&self, mut order: Attach) -> Result<(), String> {
        let id = order.target.container.as_deref();
        let container = id.map(|id| self.container(id)).transpose()?;
        order.target.container = container.map(|known| known.id.clone());
        let inside = container.map(|known| (known.id.as_str(), known.attach_dir.as_ref()));
        self.change(|all, vm| all.attach(vm, order, inside))
    }

    fn detach(&self, mut target: Target) -> Result<(), String> {
        if let Some(id) = &target.container {
            target.container = Some(self.container(id)?.id.clone());
        }
        self.change(|all, vm| all.detach(vm, &target))
    }

    /// A container by its id or the beginning of it, or the only one.
    pub(super) fn container(&self, id: &str) -> Result<&Known, String> {
        let fits: Vec<&Known> = self
            .containers
            .iter()
            .filter(|known| known.id.starts_with(id))
            .collect();
        match (fits.as_slice(), id) {
            ([known], _) => Ok(known),
            ([], "") => Err("it has no container".into()),
            ([], id) => Err(format!("it has no container {id}")),
            (_, "") => Err("it has several containers: name one".into()),
            (_, id) => Err(format!("it has several containers {id}…")),
        }
    }

    /// Properties of all containers that run.
    fn properties(&self, kind: &str) -> Result<Vec<(String, Value)>, HostError> {
        let mut all = Vec::new();
        for id in self.vm.containers() {
            match self.vm.properties(&id, &[kind]) {
                Ok(properties) => all.push((id, properties)),
                // It ended meanwhile.
                Err(HostError::Refused { .. }) if !self.vm.containers().contains(&id) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Returns when QEMU is gone.
    fn stop(&self, stop: &Stop) -> Result<(), String> {
        let vm = &self.vm;
        let grace = Duration::from_secs(stop.grace.min(3600));
        let gone = |limit: Duration| vm.vm().wait(limit).is_ok();
        if stop.force {
            vm.vm().kill();
        } else {
            for (urge, limit) in [(Urge::Asked, grace), (Urge::Pressed, END_LIMIT)] {
                // The wait reports it if it matters.
                if let Err(e) = (self.on_stop)(urge) {
                    log::debug!("stopping: {e}");
                }
                if gone(limit) {
                    return Ok(());
                }
            }
        }
        match gone(END_LIMIT) {
            true => Ok(()),
            false => Err("it does not end; `uvm stop --force` kills it".into()),
        }
    }
}

fn pids(properties: &Value) -> Vec<u32> {
    let list = properties["ProcessList"].as_array();
    let ids: HashSet<u32> = list
        .into_iter()
        .flatten()
        .filter_map(|process| process["ProcessId"].as_u64())
        .filter_map(|pid| u32::try_from(pid).ok())
        .collect();
    let mut ids: Vec<u32> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}
