//! ModifySettings of Network (protocol 7.8), and the part of Create that gives a container its
//! adapters.
//!
//! An adapter is looked for when it is added and moved when its namespace has a container: with
//! that container's Create, or at once when that is through (P-264, P-265). Both are tasks: only
//! a process of its own may enter another network namespace.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::container::State;
use super::Uvm;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::bundle::{self, Context};
use crate::error::Failure;
use crate::net::{assign, device, Adapter, Assignment, Leased};
use crate::prot::settings::NetworkAdapter;
use crate::uevent;

const SYS: &str = "/sys";
/// Over the five seconds that the look itself is limited to.
const LOOK_LIMIT: Duration = Duration::from_secs(20);
const FILE_LIMIT: Duration = Duration::from_secs(20);
/// For one adapter: it may have to come back from another namespace first, and may have to ask
/// for its addresses.
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
        self.run(
            format!("looking for network adapter {id:?}"),
            LOOK_LIMIT,
            move || {
                let deadline = Instant::now() + device::ARRIVAL;
                device::find(
                    Path::new(SYS),
                    &adapter,
                    uevent::Socket::subscribe,
                    deadline,
                )
            },
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
        );
    }

    pub(super) fn remove_network(&mut self, ticket: Ticket, settings: &NetworkAdapter) {
        self.namespaces.remove(&settings.namespace_id, &settings.id);
        self.outbox.answer(ticket, Ok(Reply::Done));
    }

    /// The adapter was found: it moves now if its namespace has a container whose init the
    /// others were moved to. Else it waits for the Create.
    fn assign_late(&mut self, ticket: Ticket, namespace: &str, id: &str) {
        let bound = self.namespaces.bound(namespace);
        let there = bound.and_then(|(container, init)| {
            let alive = self.containers.get(container)?.state < State::Exited;
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

    /// Gives the init of a container that is being created the adapters of the namespace it is
    /// bound to, then goes on (P-134); at once when it has none.
    pub(super) fn assign_network(
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
        let limit = ASSIGN_LIMIT * u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let container = container.to_owned();
        self.run(
            doing.clone(),
            limit,
            move || assign::assign(Path::new(SYS), &assignments, init),
            move |uvm, assigned: Result<Vec<Leased>, Failure>| {
                let leased = match assigned {
                    Ok(leased) => leased,
                    Err(failure) => return then(uvm, Err(failure.during(doing))),
                };
                for id in ids {
                    uvm.namespaces.assigned(&container, &id);
                }
                for lease in &leased {
                    uvm.keep_tenancy(&container, init, lease.tenancy.clone());
                }
                match uvm.namespaces.learn(&container, leased) {
                    Some(adapters) => uvm.rewrite_resolv_conf(&container, adapters, then),
                    None => then(uvm, Ok(())),
                }
            },
        );
    }

    /// What DHCP told of name servers came after the files were written. Written in place: the
    /// file may be mounted in containers. A container with a file of its own has none.
    fn rewrite_resolv_conf(
        &mut self,
        container: &str,
        adapters: Vec<bundle::Adapter>,
        then: impl FnOnce(&mut Self, Result<(), Failure>) + 'static,
    ) {
        let Some(bundle) = self.containers.get(container).map(|c| c.bundle.clone()) else {
            return then(self, Ok(()));
        };
        let file = Context::default()
            .root(container, &bundle)
            .join("resolv.conf");
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
