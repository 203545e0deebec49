//! CombinedLayers (protocol section 7.6).

use std::time::Duration;

use crate::bridge::outbox::Ticket;
use crate::prot::settings;
use crate::storage::{layers, CombinedLayers, Source};
use crate::uvm::Uvm;

const LIMIT: Duration = Duration::from_secs(60);

impl Uvm {
    pub(super) fn add_layers(&mut self, ticket: Ticket, combined: &settings::CombinedLayers) {
        let root = &combined.container_root_path;
        let paths: Vec<_> = combined.layers.iter().map(|layer| &layer.path).collect();
        let doing = format!("combining layers at {root:?}");
        match CombinedLayers::new(root, &paths, &combined.scratch_path) {
            Ok(order) => self.add_mount(ticket, root, doing, LIMIT, move |journal| {
                layers::add(&order, journal)
            }),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }

    pub(super) fn remove_layers(&mut self, ticket: Ticket, combined: &settings::CombinedLayers) {
        let root = &combined.container_root_path;
        match layers::container_root(root) {
            Ok(_) => self.remove_mount(ticket, root, Source::Layers, LIMIT, |_, _| {}),
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
        }
    }
}
