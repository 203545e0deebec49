//! Create (protocol section 5): register the id, write the bundle, have the engine make the
//! container up to the point where its init waits to be started.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::Value;

use super::container::{Container, InitStreams, State};
use super::process::Role;
use super::{namespaces, Uvm};
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle::{self, Context, Kind, Made, Prepared, Security};
use crate::error::Failure;
use crate::prot::{HResult, MessageBase, SchemaVersion, VmHostedContainerSettingsV2};
use crate::runtime::{Order, Report};
use crate::stdio::{input_pipe, output_pipe, Relay};
use crate::storage::{self, Roots};

/// Over the time that assigned devices may take to appear.
const PREPARE_LIMIT: Duration = Duration::from_secs(90);
const ENGINE_LIMIT: Duration = Duration::from_secs(120);
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(60);

impl Uvm {
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
        let namespace = bundle::network_namespace(&oci);
        let context = self.context(&oci, namespace.as_deref());
        self.run(
            format!("creating container {id:?}"),
            PREPARE_LIMIT,
            move || bundle::prepare(&name, &bundle, oci, &context),
            move |uvm, result| match result {
                Ok(prepared) => uvm.prepared(ticket, id, namespace.as_deref(), prepared),
                Err(failure) => uvm.create_failed(ticket, id, failure),
            },
        );
    }

    /// The files are there: takes the network namespace, which a workload has from its sandbox.
    fn prepared(
        &mut self,
        ticket: Ticket,
        id: String,
        namespace: Option<&str>,
        prepared: Prepared,
    ) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        container.owns_pid_namespace = prepared.owns_pid_namespace;
        container.outline = Some(prepared.outline);
        container.shared = prepared.shared;
        let bound = match prepared.kind {
            Kind::Workload { .. } => Ok(()),
            Kind::Sandbox | Kind::Standalone => self.namespaces.bind(namespace, &id),
        };
        match bound {
            Ok(()) => self.create_in_engine(ticket, id, prepared.terminal),
            Err(failure) => self.create_failed(ticket, id, failure),
        }
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
        bundle::check_id(id)?;
        if self.containers.contains_key(id) {
            let text = format!("there is a container {id:?} already");
            return Err(Failure::new(HResult::SYSTEM_ALREADY_EXISTS, text));
        }
        let context = Context::default();
        let bundle = match config.oci_bundle_path.as_str() {
            "" => context.bundle(id),
            path => PathBuf::from(path),
        };
        let scratch = PathBuf::from(config.scratch_dir_path);
        context.check_removable("OciBundlePath", &bundle)?;
        context.check_removable("ScratchDirPath", &scratch)?;
        self.check_unshared(&bundle)?;
        let container = Container::creating(base.activity_id.clone(), bundle.clone(), scratch);
        self.containers.insert(id.clone(), container);
        Ok((bundle, oci.0))
    }

    /// The bundle is removed with its container: it must not be, hold or lie in another's.
    fn check_unshared(&self, bundle: &Path) -> Result<(), Failure> {
        let overlaps = |other: &Path| bundle.starts_with(other) || other.starts_with(bundle);
        match self.containers.iter().find(|(_, c)| overlaps(&c.bundle)) {
            None => Ok(()),
            Some((other, _)) => Err(Failure::new(
                HResult::INVALID_ARGUMENT,
                format!("OciBundlePath {bundle:?}: container {other:?} has its bundle there"),
            )),
        }
    }

    /// What the spec is rewritten against, of all that this host knows.
    fn context(&self, oci: &Value, namespace: Option<&str>) -> Context {
        let mut context = Context {
            adapters: match namespace {
                Some(id) if self.namespaces.known(id) => Ok(self.namespaces.adapters(id)),
                id => Err(namespaces::unknown(id)),
            },
            security: Security {
                policy: self.policy.encoded().to_owned(),
                reference: self.policy.reference().to_owned(),
            },
            ..Context::default()
        };
        context.sandbox = bundle::sandbox_id(oci).and_then(|sandbox| {
            let bundle = &self.containers.get(sandbox)?.bundle;
            Some(context.root(sandbox, bundle))
        });
        context
    }

    fn create_in_engine(&mut self, ticket: Ticket, id: String, terminal: bool) {
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let streams = if terminal {
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
            terminal,
        };
        let doing = format!("creating container {id:?} in the engine");
        self.run_helper(doing, ENGINE_LIMIT, &order, stdio, move |uvm, result| {
            let made = result.and_then(|(report, fds)| made_init(report, fds, ours));
            match made {
                Ok((pid, streams)) => uvm.connect(ticket, id, Pid::from_raw(pid), streams),
                Err(failure) => uvm.create_failed(ticket, id, failure),
            }
        });
    }

    /// Gives the waiting init the adapters of the namespace it has taken.
    fn connect(&mut self, ticket: Ticket, id: String, pid: Pid, streams: InitStreams) {
        let name = id.clone();
        self.assign_network(&name, pid, move |uvm, assigned| match assigned {
            Ok(()) => uvm.created(ticket, &id, pid, streams),
            Err(failure) => uvm.create_failed(ticket, id, failure),
        });
    }

    fn created(&mut self, ticket: Ticket, id: &str, pid: Pid, streams: InitStreams) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.state = State::Created;
        container.shared = Made::default();
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
        let Some(container) = self.containers.get_mut(&id) else {
            return;
        };
        let bundle = container.bundle.clone();
        let shared = std::mem::take(&mut container.shared);
        let others = self.used_by_others(&id);
        let inside = self.begin_removal(&[&bundle]);
        let mappings = inside.mappings.clone();
        let name = id.clone();
        self.run(
            format!("cleaning up after the failed create of {id:?}"),
            CLEAN_UP_LIMIT,
            move || {
                let engine = crate::runtime::purge(&name);
                shared.undo(|path| {
                    let used = |sources: &[PathBuf]| sources.iter().any(|s| s.starts_with(path));
                    !path.starts_with(&bundle) && others.as_deref().is_none_or(used)
                });
                let files =
                    bundle::remove_files(&name, Path::new(""), &bundle, &Context::default());
                let files =
                    files.and_then(|()| storage::remove_mappings(&Roots::default(), &mappings));
                files.and(engine)
            },
            move |uvm, cleaned: Result<(), Failure>| {
                // Nobody asks again: what is left is unmounted by its path alone.
                uvm.end_removal(&inside, true);
                if let Err(left) = cleaned {
                    log::error!("{left}");
                }
                uvm.namespaces.unbind(&id);
                uvm.end_tenancies(&id);
                uvm.containers.remove(&id);
                uvm.outbox.answer(ticket, Err(failure));
            },
        );
    }

    /// The mount sources of all containers but this one; none while that is not known, because
    /// one of them is being created.
    fn used_by_others(&self, id: &str) -> Option<Vec<PathBuf>> {
        let mut sources = Vec::new();
        for (_, container) in self.containers.iter().filter(|(other, _)| *other != id) {
            sources.extend_from_slice(&container.outline.as_ref()?.sources);
        }
        Some(sources)
    }
}

/// The init that the engine made, with our ends of its streams: the pipes it was given, else the
/// terminal that came with the report.
pub(super) fn made_init(
    report: Report,
    fds: Vec<OwnedFd>,
    pipes: Option<InitStreams>,
) -> Result<(i32, InitStreams), Failure> {
    let pid = match report {
        Report::Done { pid } => pid,
        Report::Failed(failure) => return Err(failure),
    };
    let terminal = || fds.into_iter().next().map(InitStreams::Terminal);
    pid.zip(pipes.or_else(terminal))
        .ok_or_else(|| Failure::unspecified("the engine's report lacks the pid or the terminal"))
}

/// Three pipes between an init and its relay; our ends do not block.
pub(super) struct Pipes {
    pub theirs: [OwnedFd; 3],
    pub ours: InitStreams,
}

impl Pipes {
    pub fn new() -> std::io::Result<Self> {
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
