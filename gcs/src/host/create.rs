//! Create (protocol section 5): register the id, write the bundle, have the engine make the
//! container up to the point where its init waits to be started.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::Value;

use super::container::{Container, InitStreams, State};
use super::process::Role;
use super::Host;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{HResult, MessageBase, SchemaVersion, VmHostedContainerSettingsV2};
use crate::runtime::{Order, Report};
use crate::spec::{self, Context, Prepared};
use crate::stdio::{input_pipe, output_pipe, Relay};

const PREPARE_LIMIT: Duration = Duration::from_secs(60);
const ENGINE_LIMIT: Duration = Duration::from_secs(120);

impl Host {
    pub(super) fn create(
        &mut self,
        ticket: Ticket,
        base: &MessageBase,
        config: VmHostedContainerSettingsV2,
    ) {
        let (bundle, oci) = match self.register(base, config) {
            Ok(registered) => registered,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        let id = base.container_id.clone();
        let name = id.clone();
        self.run(
            format!("creating container {id:?}"),
            PREPARE_LIMIT,
            move || spec::prepare(&name, &bundle, oci, &Context::default()),
            move |host, result| match result {
                Ok(prepared) => host.create_in_engine(ticket, id, prepared),
                Err(failure) => host.create_failed(ticket, id, failure),
            },
        );
    }

    /// Checks what can be checked without touching anything, then takes the id.
    fn register(
        &mut self,
        base: &MessageBase,
        config: VmHostedContainerSettingsV2,
    ) -> Result<(PathBuf, Value), Failure> {
        let id = &base.container_id;
        let invalid = |text: &str| Err(Failure::new(HResult::INVALID_JSON, text));
        if config.schema_version < SchemaVersion::V2_1 {
            return invalid("the container document's SchemaVersion is below 2.1 or missing");
        }
        let Some(oci) = config.oci_specification else {
            return invalid("the container document has no OciSpecification");
        };
        spec::check_id(id)?;
        if self.containers.contains_key(id) {
            let text = format!("there is a container {id:?} already");
            return Err(Failure::new(HResult::SYSTEM_ALREADY_EXISTS, text));
        }
        let bundle = match config.oci_bundle_path.as_str() {
            "" => Context::default().root(id),
            path => PathBuf::from(path),
        };
        let scratch = PathBuf::from(config.scratch_dir_path);
        let container = Container::creating(base.activity_id.clone(), bundle.clone(), scratch);
        self.containers.insert(id.clone(), container);
        Ok((bundle, oci.0))
    }

    fn create_in_engine(&mut self, ticket: Ticket, id: String, prepared: Prepared) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        container.owns_pid_namespace = prepared.owns_pid_namespace;
        container.config = prepared.config;
        let streams = if prepared.terminal {
            Ok(None)
        } else {
            Pipes::new().map(Some)
        };
        let null = crate::sys::fds::null();
        let (streams, null) = match (streams, null) {
            (Ok(streams), Ok(null)) => (streams, null),
            (Err(error), _) | (_, Err(error)) => {
                let text = format!("creating container {id:?}: making its streams: {error}");
                return self.create_failed(ticket, id, Failure::unspecified(text));
            }
        };
        let (theirs, ours) = streams.map_or((None, None), |p| (Some(p.theirs), Some(p.ours)));
        let stdio = match &theirs {
            Some([stdin, stdout, stderr]) => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            None => [null.as_fd(); 3],
        };
        let order = Order::Create {
            id: id.clone(),
            bundle: container.bundle.clone(),
            terminal: prepared.terminal,
        };
        let doing = format!("creating container {id:?} in the engine");
        self.run_helper(doing, ENGINE_LIMIT, &order, stdio, move |host, result| {
            let made = result.and_then(|(report, mut fds)| match (report, ours) {
                (Report::Failed(failure), _) => Err(failure),
                (Report::Done { pid: Some(pid) }, Some(streams)) => Ok((pid, streams)),
                (Report::Done { pid: Some(pid) }, None) if !fds.is_empty() => {
                    Ok((pid, InitStreams::Terminal(fds.remove(0))))
                }
                (Report::Done { .. }, _) => Err(Failure::unspecified(
                    "the engine's report lacks the pid or the terminal",
                )),
            });
            match made {
                Ok((pid, streams)) => host.created(ticket, &id, Pid::from_raw(pid), streams),
                Err(failure) => host.create_failed(ticket, id, failure),
            }
        });
    }

    fn created(&mut self, ticket: Ticket, id: &str, pid: Pid, streams: InitStreams) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.state = State::Created;
        container.streams = Some(streams);
        self.outbox.answer(ticket, Ok(Reply::Created));
        // Behind the reply: an init that is gone already is reported next.
        let key = self.adopt(Role::Init(id.to_owned()), pid, Relay::default(), None);
        if let Some(container) = self.containers.get_mut(id) {
            container.init = Some(key);
        }
    }

    /// Undoes what a failed Create left, then frees the id and answers (P-131, P-093).
    fn create_failed(&mut self, ticket: Ticket, id: String, failure: Failure) {
        let Some(container) = self.containers.get(&id) else {
            return;
        };
        let bundle = container.bundle.clone();
        let name = id.clone();
        self.run(
            format!("cleaning up after the failed create of {id:?}"),
            PREPARE_LIMIT,
            move || {
                let engine = crate::runtime::purge(&name);
                spec::remove_files(&name, Path::new(""), &bundle, &Context::default()).and(engine)
            },
            move |host, cleaned: Result<(), Failure>| {
                if let Err(left) = cleaned {
                    log::error!("{left}");
                }
                host.containers.remove(&id);
                host.outbox.answer(ticket, Err(failure));
            },
        );
    }
}

/// Three pipes between an init and its relay; our ends do not block.
struct Pipes {
    theirs: [OwnedFd; 3],
    ours: InitStreams,
}

impl Pipes {
    fn new() -> std::io::Result<Self> {
        let (in_read, in_write) = input_pipe()?;
        let (out_read, out_write) = output_pipe()?;
        let (err_read, err_write) = output_pipe()?;
        let ours = InitStreams::Pipes {
            stdin: in_write,
            stdout: out_read,
            stderr: err_read,
        };
        Ok(Self {
            theirs: [in_read, out_write, err_write],
            ours,
        })
    }
}
