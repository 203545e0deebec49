//! CombinedLayers (protocol section 7.6).

use std::time::Duration;

use crate::bridge::outbox::Ticket;
use crate::host::Host;
use crate::prot::settings;
use crate::storage::{layers, CombinedLayers};

const LIMIT: Duration = Duration::from_secs(60);

impl Host {
    pub(super) fn add_layers(&mut self, ticket: Ticket, combined: &settings::CombinedLayers) {
        let root = &combined.container_root_path;
        let paths: Vec<_> = combined.layers.iter().map(|layer| &layer.path).collect();
        let doing = format!("combining layers at {root:?}");
        match CombinedLayers::new(root, &paths, &combined.scratch_path) {
            Ok(order) => self.modify_task(ticket, doing, LIMIT, move || layers::add(&order)),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }

    pub(super) fn remove_layers(&mut self, ticket: Ticket, combined: settings::CombinedLayers) {
        let root = combined.container_root_path;
        let doing = format!("removing combined layers at {root:?}");
        self.modify_task(ticket, doing, LIMIT, move || layers::remove(&root));
    }
}
