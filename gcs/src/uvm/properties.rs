//! GetProperties (protocol 4.9): the processes of a container and what it uses.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Uvm;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::stats::Metrics;
use crate::prot::{MessageBase, ProcessDetails, PropertiesV2, PropertyQuery, PropertyType, UVM_ID};

const LIMIT: Duration = Duration::from_secs(20);

/// What the task reads of that which the host has asked for.
#[derive(Serialize, Deserialize)]
struct ReadProperties {
    pids: Option<Vec<i32>>,
    metrics: Option<Box<Metrics>>,
}

impl Uvm {
    pub(super) fn properties(&mut self, ticket: Ticket, base: &MessageBase, query: PropertyQuery) {
        let id = base.container_id.clone();
        let asked = |kind| query.property_types.contains(&kind);
        let (list, statistics) = (
            asked(PropertyType::ProcessList),
            asked(PropertyType::Statistics),
        );
        if id == UVM_ID {
            let text = "the properties of the utility VM itself cannot be queried";
            return self.outbox.answer(ticket, Err(Failure::unspecified(text)));
        }
        if let Err(failure) = self.containers.find(&id) {
            return self.outbox.answer(ticket, Err(failure));
        }
        if !list && !statistics {
            let reply = Reply::Properties(PropertiesV2::default());
            return self.outbox.answer(ticket, Ok(reply));
        }
        let own = if list { self.own_pids(&id) } else { Vec::new() };
        self.run(
            format!("reading the properties of container {id:?}"),
            LIMIT,
            move || {
                let group = super::engine::group(&id);
                Ok(ReadProperties {
                    pids: list.then(|| group.pids()).transpose()?,
                    metrics: statistics
                        .then(|| group.statistics().map(Box::new))
                        .transpose()?,
                })
            },
            move |uvm, read: Result<ReadProperties, Failure>| {
                let reply = read.map(|read| {
                    let pids = read.pids.into_iter().flatten().map(i32::unsigned_abs);
                    let mut all: Vec<u32> = pids.chain(own).collect();
                    all.sort_unstable();
                    all.dedup();
                    let list = all
                        .into_iter()
                        .map(|process_id| ProcessDetails { process_id });
                    Reply::Properties(PropertiesV2 {
                        process_list: list.collect(),
                        metrics: read.metrics,
                    })
                });
                uvm.outbox.answer(ticket, reply);
            },
        );
    }

    /// The processes of the container that were started here and are not reaped yet. They are added
    /// because the kernel takes a zombie off its cgroup.
    fn own_pids(&self, id: &str) -> Vec<u32> {
        let container = self.containers.get(id);
        let known = container
            .into_iter()
            .flat_map(super::container::Container::processes);
        known.filter_map(|key| self.processes.living(key)).collect()
    }
}
