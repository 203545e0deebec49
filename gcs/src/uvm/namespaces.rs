//! The network namespaces of the host's network service (protocol 7.8): which are known, which
//! container each is bound to, and where each adapter is. This module only holds state; `network`
//! acts on it.
//!
//! ```text
//! Network Add    → begin_add (Resolving) → resolved (Waiting, in the VM's own namespace)
//! Create         → bind → assign (Moving) → assigned
//! Network Remove → remove                   container deleted → unbind (all Waiting again)
//! ```
//!
//! An adapter is moved at most once per binding (P-265). A namespace has one container at a time
//! and can have another later (P-279). The empty id never names a namespace.

use std::collections::BTreeMap;

use crate::bundle;
use crate::error::Failure;
use crate::net::{Adapter, Assignment, Leased};
use crate::prot::HResult;

/// The policy routing table of the first adapter that needs one. The next adapter gets the next
/// table.
const FIRST_TABLE: u32 = 101;

/// Where an adapter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NicState {
    /// Its interface is being looked for.
    Resolving,
    /// It is in the VM's own namespace.
    Waiting,
    /// It is being moved into the container's namespace.
    Moving,
    Assigned,
}

#[derive(Debug)]
struct Nic {
    adapter: Adapter,
    state: NicState,
}

#[derive(Debug, Default)]
struct Namespace {
    container: Option<String>,
    /// The container's init, from the time its adapters are moved.
    init: Option<i32>,
    nics: Vec<Nic>,
    /// Routing tables given out in this binding.
    tables: u32,
}

impl Namespace {
    fn nic(&mut self, adapter: &str) -> Option<&mut Nic> {
        self.nics.iter_mut().find(|nic| nic.adapter.id == adapter)
    }

    /// Takes the waiting adapters that `wanted` picks.
    fn assign(&mut self, wanted: impl Fn(&Adapter) -> bool) -> Vec<Assignment> {
        let mut assignments = Vec::new();
        for (place, nic) in self.nics.iter_mut().enumerate() {
            if nic.state != NicState::Waiting || !wanted(&nic.adapter) {
                continue;
            }
            nic.state = NicState::Moving;
            let table = nic.adapter.low_metric.at(place).then(|| {
                self.tables += 1;
                FIRST_TABLE + self.tables - 1
            });
            assignments.push(Assignment {
                adapter: nic.adapter.clone(),
                table,
            });
        }
        assignments
    }
}

/// All namespaces, by their id in lower case (P-107).
#[derive(Debug, Default)]
pub struct Namespaces(BTreeMap<String, Namespace>);

impl Namespaces {
    /// Whether an adapter was added to the namespace, even if that failed, or a container is
    /// bound to it.
    pub fn known(&self, id: &str) -> bool {
        self.0.contains_key(&id.to_lowercase())
    }

    /// The DNS settings of the adapters, in the order in which they were added. Empty for an
    /// unknown id.
    pub fn adapters(&self, id: &str) -> Vec<bundle::AdapterDns> {
        let nics = self.0.get(&id.to_lowercase()).map(|ns| &ns.nics);
        let nics = nics.into_iter().flatten();
        nics.map(|nic| nic.adapter.dns.clone()).collect()
    }

    /// Binds the namespace to `container`. A container without a namespace (`None` or an empty id)
    /// binds nothing. An id without adapters becomes known.
    ///
    /// # Errors
    /// The namespace has a container already.
    pub fn bind(&mut self, id: Option<&str>, container: &str) -> Result<(), Failure> {
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            return Ok(());
        };
        let id = id.to_lowercase();
        let namespace = self.0.entry(id.clone()).or_default();
        if let Some(other) = &namespace.container {
            return Err(Failure::unspecified(format!(
                "network namespace {id}: container {other:?} has it already; delete that first"
            )));
        }
        namespace.container = Some(container.to_owned());
        Ok(())
    }

    /// The container is gone, and its namespace can have another one. The kernel returns the
    /// adapters. A container without a namespace is no error.
    pub fn unbind(&mut self, container: &str) {
        for namespace in self.0.values_mut() {
            if namespace.container.as_deref() == Some(container) {
                namespace.container = None;
                namespace.init = None;
                namespace.tables = 0;
                for nic in &mut namespace.nics {
                    if nic.state != NicState::Resolving {
                        nic.state = NicState::Waiting;
                    }
                }
            }
        }
        self.forget_empty(|_| true);
    }

    /// Adds an adapter at the end of its namespace. Its interface is looked for next.
    ///
    /// # Errors
    /// The namespace has an adapter of this id (P-266), or its own id is empty.
    pub fn begin_add(&mut self, id: &str, adapter: Adapter) -> Result<(), Failure> {
        let id = id.to_lowercase();
        if id.is_empty() {
            return Err(Failure::unspecified(format!(
                "network adapter {:?}: the settings lack the NamespaceID",
                adapter.id
            )));
        }
        let namespace = self.0.entry(id.clone()).or_default();
        if namespace.nic(&adapter.id).is_some() {
            return Err(Failure::unspecified(format!(
                "network adapter {:?} is in namespace {id} already",
                adapter.id
            )));
        }
        namespace.nics.push(Nic {
            adapter,
            state: NicState::Resolving,
        });
        Ok(())
    }

    /// The interface was found. The adapter now waits for the Create of the container.
    pub fn resolved(&mut self, id: &str, adapter: &str) {
        if let Some(nic) = self.nic(id, adapter) {
            if nic.state == NicState::Resolving {
                nic.state = NicState::Waiting;
            }
        }
    }

    /// The Add failed: the adapter can be added again.
    pub fn forget(&mut self, id: &str, adapter: &str) {
        if let Some(namespace) = self.0.get_mut(&id.to_lowercase()) {
            let adapter = adapter.to_lowercase();
            namespace.nics.retain(|nic| nic.adapter.id != adapter);
        }
    }

    /// Forgets an adapter (P-272), found by namespace and id, or else by its id alone, because
    /// hosts name other namespaces than in the Add. An unknown adapter is no error. A namespace
    /// that is left without adapters and container is forgotten too.
    pub fn remove(&mut self, id: &str, adapter: &str) {
        let (id, adapter) = (id.to_lowercase(), adapter.to_lowercase());
        let there = self.nic(&id, &adapter).is_some();
        for (name, namespace) in &mut self.0 {
            if !there || *name == id {
                namespace.nics.retain(|nic| nic.adapter.id != adapter);
            }
        }
        self.forget_empty(|name| !there || name == id);
    }

    /// The container bound to the namespace, and its init once adapters are moved to it.
    pub fn bound(&self, id: &str) -> Option<(&str, Option<i32>)> {
        let namespace = self.0.get(&id.to_lowercase())?;
        Some((namespace.container.as_deref()?, namespace.init))
    }

    /// The init of the container, if adapters were moved to it.
    pub fn init_of(&self, container: &str) -> Option<i32> {
        let bound = |ns: &&Namespace| ns.container.as_deref() == Some(container);
        self.0.values().find(bound)?.init
    }

    /// The init of `container` exists. Takes the adapters that wait in its namespace, in order;
    /// [`assigned`](Self::assigned) follows for each.
    pub fn assign(&mut self, container: &str, init: i32) -> Vec<Assignment> {
        let bound = |ns: &&mut Namespace| ns.container.as_deref() == Some(container);
        match self.0.values_mut().find(bound) {
            Some(namespace) => {
                namespace.init = Some(init);
                namespace.assign(|_| true)
            }
            None => Vec::new(),
        }
    }

    /// The same for one adapter, which came after the container.
    pub fn assign_one(&mut self, id: &str, adapter: &str) -> Option<Assignment> {
        let namespace = self.0.get_mut(&id.to_lowercase())?;
        let adapter = adapter.to_lowercase();
        namespace.assign(|other| other.id == adapter).pop()
    }

    /// The adapter is in the container's namespace.
    pub fn assigned(&mut self, container: &str, adapter: &str) {
        let bound = |ns: &&mut Namespace| ns.container.as_deref() == Some(container);
        let namespace = self.0.values_mut().find(bound);
        if let Some(nic) = namespace.and_then(|ns| ns.nic(&adapter.to_lowercase())) {
            nic.state = NicState::Assigned;
        }
    }

    /// Notes the DNS settings from DHCP servers, for adapters whose own settings have none. Returns
    /// the settings of all adapters of the namespace if they have changed.
    pub fn learn(
        &mut self,
        container: &str,
        leased: Vec<Leased>,
    ) -> Option<Vec<bundle::AdapterDns>> {
        let bound = |ns: &&mut Namespace| ns.container.as_deref() == Some(container);
        let namespace = self.0.values_mut().find(bound)?;
        let mut news = false;
        for lease in leased {
            let Some(nic) = namespace.nic(&lease.id) else {
                continue;
            };
            if nic.adapter.dns == bundle::AdapterDns::default() {
                nic.adapter.dns = bundle::AdapterDns {
                    dns_suffix: lease.dns_suffix,
                    dns_servers: lease.dns_servers,
                };
                news = true;
            }
        }
        news.then(|| {
            namespace
                .nics
                .iter()
                .map(|nic| nic.adapter.dns.clone())
                .collect()
        })
    }

    /// One line per namespace, for the state dump.
    pub fn describe(&self) -> Vec<String> {
        let line = |(id, namespace): (&String, &Namespace)| {
            let nic = |nic: &Nic| format!(" {} {:?}", nic.adapter.id, nic.state);
            let nics: String = namespace.nics.iter().map(nic).collect();
            format!("{id} container={:?}{nics}", namespace.container)
        };
        self.0.iter().map(line).collect()
    }

    fn nic(&mut self, id: &str, adapter: &str) -> Option<&mut Nic> {
        let namespace = self.0.get_mut(&id.to_lowercase())?;
        namespace.nic(&adapter.to_lowercase())
    }

    fn forget_empty(&mut self, which: impl Fn(&str) -> bool) {
        self.0
            .retain(|id, ns| !which(id) || ns.container.is_some() || !ns.nics.is_empty());
    }
}

/// The answer of Create for an unknown namespace (P-106).
pub fn unknown(id: Option<&str>) -> Failure {
    let text = match id {
        Some(id) => format!("network namespace {id:?} is not known: no adapter was added to it"),
        None => "the specification names no network namespace, which a sandbox needs".into(),
    };
    Failure::new(HResult::NOT_FOUND, text)
}

#[cfg(test)]
#[path = "namespaces_tests.rs"]
mod tests;
