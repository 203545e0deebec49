//! GetProperties (protocol 4.9): what a container's processes are.

use std::time::Duration;

use super::Host;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{
    HResult, MessageBase, ProcessDetails, PropertiesV2, PropertyQuery, PropertyType, UVM_ID,
};

const LIMIT: Duration = Duration::from_secs(20);

impl Host {
    pub(super) fn properties(&mut self, ticket: Ticket, base: &MessageBase, query: PropertyQuery) {
        let id = base.container_id.clone();
        let types = query.property_types;
        if id == UVM_ID {
            let text = "the properties of the utility VM itself cannot be queried";
            return self.outbox.answer(ticket, Err(Failure::unspecified(text)));
        }
        if let Err(failure) = self.container(&id) {
            return self.outbox.answer(ticket, Err(failure));
        }
        if types.contains(&PropertyType::Statistics) {
            let text = "the Statistics of a container are not supported yet";
            return self
                .outbox
                .answer(ticket, Err(Failure::new(HResult::FAIL, text)));
        }
        if !types.contains(&PropertyType::ProcessList) {
            let reply = Reply::Properties(PropertiesV2::default());
            return self.outbox.answer(ticket, Ok(reply));
        }
        let container = &self.containers[&id];
        let known = container.init.iter().chain(container.execs.values());
        let own: Vec<u32> = known
            .filter_map(|key| self.processes.get(key))
            .filter(|process| !process.has_exited())
            .map(|process| process.pid)
            .collect();
        self.run(
            format!("listing the processes of container {id:?}"),
            LIMIT,
            move || crate::runtime::pids(&id),
            move |host, pids: Result<Vec<i32>, Failure>| {
                let reply = pids.map(|pids| {
                    let mut all: Vec<u32> = pids.into_iter().map(i32::unsigned_abs).collect();
                    all.extend(own);
                    all.sort_unstable();
                    all.dedup();
                    let list = all
                        .into_iter()
                        .map(|process_id| ProcessDetails { process_id });
                    let process_list = list.collect();
                    Reply::Properties(PropertiesV2 {
                        process_list,
                        ..PropertiesV2::default()
                    })
                });
                host.outbox.answer(ticket, reply);
            },
        );
    }
}
