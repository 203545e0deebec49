//! ModifySettings of Network (protocol 7.8), and the part of Create that gives a container its
//! adapters.
//!
//! An adapter is looked for when it is added. It is moved when its namespace has a container, by
//! the Create or, after the Create, at once (P-264, P-265). Both are tasks, because only a process
//! of its own may enter another network namespace.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;

use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle;
use crate::error::Failure;
use crate::machine::uevent::Device;
use crate::net::device::{self, ExpectedInterface};
use crate::net::{assign, Adapter, Assignment, Leased};
use crate::prot::settings::NetworkAdapter;
use crate::storage::Journal;
use crate::uvm::arrivals::{AllOf, ArrivalLimits};
use crate::uvm::container::Container;
use crate::uvm::Uvm;

const SYS: &str = "/sys";
const LOOK_LIMIT: Duration = Duration::from_secs(20);
const FILE_LIMIT: Duration = Duration::from_secs(20);
/// For one adapter, which may have to return from another namespace first and may use DHCP.
const ASSIGN_LIMIT: Duration = Duration::from_secs(60);

impl Uvm {
    pub(super) fn add_network(&mut self, ticket: Ticket, settings: &NetworkAdapter) {
        let namespace = settings.namespace_id.clone();
        let begun = Adapter::parse(settings).and_then(|adapter| {
            self.namespaces.begin_add(&namespace, adapter.clone())?;
            Ok(adapter)
        });
        let adapter = match begun {
            Ok(adapter) => adapter,
            Err(failure) => return self.outbox.answer(ticket, Err(failure)),
        };
        let id = adapter.id.clone();
        let expected = match ExpectedInterface::new(Path::new(SYS), &adapter) {
            Ok(expected) => expected,
            Err(failure) => {
                self.namespaces.forget(&namespace, &id);
                return self.outbox.answer(ticket, Err(failure));
            }
        };
        let limits = ArrivalLimits {
            arrival: device::ARRIVAL,
            task: LOOK_LIMIT,
        };
        self.run_when_there(
            format!("looking for network adapter {id:?}"),
            limits,
            expected.clone(),
            move |_| expected.look(),
            move |uvm, found: Result<String, Failure>| match found {
                Ok(name) => {
                    log::debug!("network adapter {id:?} is {name}");
                    uvm.namespaces.resolved(&namespace, &id);
                    uvm.assign_late(ticket, &namespace, &id);
                }
                Err(failure) => {
                    uvm.namespaces.forget(&namespace, &id);
                    uvm.outbox.answer(ticket, Err(failure));
                }
            },
            |_| {},
        );
    }

    pub(super) fn remove_network(&mut self, ticket: Ticket, settings: &NetworkAdapter) {
        self.namespaces.remove(&settings.namespace_id, &settings.id);
        self.outbox.answer(ticket, Ok(Reply::Done));
    }

    /// The adapter was found. If its namespace has a container to whose init the others were moved,
    /// it follows now; otherwise it waits for the Create.
    fn assign_late(&mut self, ticket: Ticket, namespace: &str, id: &str) {
        let bound = self.namespaces.bound(namespace);
        let there = bound.and_then(|(container, init)| {
            let alive = !self.containers.get(container)?.has_exited();
            Some((container.to_owned(), init.filter(|_| alive)?))
        });
        let assignment = match &there {
            Some(_) => self.namespaces.assign_one(namespace, id),
            None => None,
        };
        let (Some((container, init)), Some(assignment)) = (there, assignment) else {
            return self.outbox.answer(ticket, Ok(Reply::Done));
        };
        let (namespace, id) = (namespace.to_owned(), id.to_owned());
        self.assign(&container, vec![assignment], init, move |uvm, assigned| {
            if assigned.is_err() {
                uvm.namespaces.forget(&namespace, &id);
            }
            uvm.outbox.answer(ticket, assigned.map(|()| Reply::Done));
        });
    }

    /// Moves the adapters of the namespace to the init of a container that is being created, and
    /// then calls `then` (P-134). Without adapters it calls `then` at once.
    pub(in crate::uvm) fn assign_network(
        &mut self,
        container: &str,
        init: Pid,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let assignments = self.namespaces.assign(container, init.as_raw());
        if assignments.is_empty() {
            return then(self, Ok(()));
        }
        self.assign(container, assignments, init.as_raw(), then);
    }

    fn assign(
        &mut self,
        container: &str,
        assignments: Vec<Assignment>,
        init: i32,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let ids: Vec<String> = assignments.iter().map(|a| a.adapter.id.clone()).collect();
        let doing = format!("network of container {container:?}");
        let (label, container) = (doing.clone(), container.to_owned());
        self.move_adapters(doing, assignments, init, move |uvm, assigned| {
            let leased = match assigned {
                Ok(leased) => leased,
                Err(failure) => return then(uvm, Err(failure.during(label))),
            };
            for id in ids {
                uvm.namespaces.assigned(&container, &id);
            }
            for lease in &leased {
                uvm.keep_lease(&container, init, lease.tenancy.clone());
            }
            match uvm.namespaces.learn(&container, leased) {
                Some(adapters) => uvm.rewrite_resolv_conf(&container, adapters, then),
                None => then(uvm, Ok(())),
            }
        });
    }

    /// Moves adapters to the network namespace of `init` when all of them are present. They may
    /// have to return from another namespace first.
    pub(in crate::uvm) fn move_adapters(
        &mut self,
        doing: String,
        assignments: Vec<Assignment>,
        init: i32,
        then: impl FnOnce(&mut Self, Result<Vec<Leased>, Failure>) + 'static,
    ) {
        let sys = Path::new(SYS);
        let expected = assignments.iter().map(|assignment| {
            let interface = ExpectedInterface::new(sys, &assignment.adapter)?;
            Ok(Box::new(interface) as Box<dyn Device>)
        });
        let expected = match expected.collect::<Result<Vec<_>, Failure>>() {
            Ok(expected) => AllOf(expected),
            Err(failure) => return then(self, Err(failure)),
        };
        let count = u32::try_from(assignments.len()).unwrap_or(u32::MAX);
        let limits = ArrivalLimits {
            arrival: device::ARRIVAL.saturating_mul(count),
            task: ASSIGN_LIMIT.saturating_mul(count),
        };
        let job = move |_: &Journal| assign::assign(Path::new(SYS), &assignments, init);
        self.run_when_there(doing, limits, expected, job, then, |_| {});
    }

    /// Rewrites `resolv.conf`, because the name servers from DHCP are known only after it was
    /// written. It is written in place, because containers may have it mounted. A container that
    /// brings its own file has none here.
    fn rewrite_resolv_conf(
        &mut self,
        container: &str,
        adapters: Vec<bundle::AdapterDns>,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let outline = self.containers.get(container).and_then(Container::outline);
        let Some(pod) = outline.map(|outline| &outline.pod) else {
            return then(self, Ok(()));
        };
        let file = pod.directory.join("resolv.conf");
        let doing = format!("name servers of container {container:?}");
        self.run(
            doing.clone(),
            FILE_LIMIT,
            move || {
                let text = bundle::resolv_conf(&adapters)?;
                let written = OpenOptions::new()
                    .write(true)
                    .truncate(true)
                    .open(&file)
                    .and_then(|mut file| file.write_all(text.as_bytes()));
                match written {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        let text = format!("writing {}: {error}", file.display());
                        Err(Failure::unspecified(text))
                    }
                    _ => Ok(()),
                }
            },
            move |uvm, written: Result<(), Failure>| {
                then(uvm, written.map_err(|failure| failure.during(doing)));
            },
        );
    }
}
