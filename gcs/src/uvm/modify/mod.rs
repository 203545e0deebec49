//! ModifySettings (protocol 4.10, 7): what the host adds to the utility VM and takes from it. This
//! file has the table that leads to the handlers; each resource has a file of its own.

mod constraints;
mod directory;
mod disk;
mod layers;
mod memory_limit;
mod mounts;
mod network;
mod pci;
mod pmem;
mod policy;

pub use directory::Shares;

use super::Uvm;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::{MessageBase, ModifyRequest, RequestType, Resource, UVM_ID};

impl Uvm {
    pub(super) fn modify(&mut self, ticket: Ticket, base: &MessageBase, request: ModifyRequest) {
        if let Resource::ContainerConstraints(settings) = request.resource {
            return self.constrain(ticket, &base.container_id, settings);
        }
        match self.modify_checked(base, &request) {
            Err(failure) => self.outbox.answer(ticket, Err(failure)),
            Ok(()) => self.modify_uvm(ticket, request),
        }
    }

    /// Which resources go to which id (P-242).
    fn modify_checked(
        &mut self,
        base: &MessageBase,
        request: &ModifyRequest,
    ) -> Result<(), Failure> {
        let id = &base.container_id;
        if id == UVM_ID {
            return Ok(());
        }
        self.containers.find(id)?;
        let kind = request.resource.resource_type();
        let text = format!("{kind:?} belongs to the utility VM, not to container {id:?}");
        Err(Failure::unspecified(text))
    }

    fn modify_uvm(&mut self, ticket: Ticket, request: ModifyRequest) {
        let ModifyRequest {
            request_type,
            resource,
        } = request;
        match (resource, request_type) {
            (Resource::MappedVirtualDisk(disk), RequestType::Add) => self.add_disk(ticket, disk),
            (Resource::MappedVirtualDisk(disk), RequestType::Remove) => {
                self.remove_disk(ticket, &disk);
            }
            (Resource::ScsiDevice(device), RequestType::Remove) => {
                self.remove_scsi_device(ticket, device);
            }
            (Resource::MappedDirectory(directory), RequestType::Add) => {
                self.add_directory(ticket, directory);
            }
            (Resource::MappedDirectory(directory), RequestType::Remove) => {
                self.remove_directory(ticket, &directory);
            }
            (Resource::VpMemDevice(device), RequestType::Add) => self.add_pmem(ticket, &device),
            (Resource::VpMemDevice(device), RequestType::Remove) => {
                self.remove_pmem(ticket, &device);
            }
            (Resource::VpciDevice(device), RequestType::Add) => {
                self.add_pci_device(ticket, device);
            }
            (Resource::CombinedLayers(combined), RequestType::Add) => {
                self.add_layers(ticket, &combined);
            }
            (Resource::CombinedLayers(combined), RequestType::Remove) => {
                self.remove_layers(ticket, &combined);
            }
            (Resource::SecurityPolicy(policy), _) => self.set_policy(ticket, policy),
            (Resource::SecurityPolicyFragment(_), _) => self.refuse_fragment(ticket),
            (Resource::PodCgroupMemoryLimit(_), RequestType::Update) => {
                self.limit_containers(ticket);
            }
            (
                resource @ (Resource::MappedVirtualDisk(_)
                | Resource::ScsiDevice(_)
                | Resource::MappedDirectory(_)
                | Resource::VpMemDevice(_)
                | Resource::VpciDevice(_)
                | Resource::CombinedLayers(_)
                | Resource::PodCgroupMemoryLimit(_)),
                request_type,
            ) => {
                let kind = resource.resource_type();
                let text = format!("{kind:?} knows no request {request_type:?}");
                self.outbox.answer(ticket, Err(Failure::unspecified(text)));
            }
            (Resource::Network(adapter), RequestType::Add) => {
                self.add_network(ticket, &adapter);
            }
            (Resource::Network(adapter), RequestType::Remove) => {
                self.remove_network(ticket, &adapter);
            }
            (resource, _) => {
                let text = format!("{:?} is not supported yet", resource.resource_type());
                self.outbox.answer(ticket, Err(Failure::unspecified(text)));
            }
        }
    }
}
