//! ModifySettings (protocol 4.10, 7): what the host adds to and takes from the utility VM.

use std::time::Duration;

use super::Host;
use crate::bridge::codec::Reply;
use crate::bridge::outbox::Ticket;
use crate::error::Failure;
use crate::prot::settings::MappedVirtualDisk;
use crate::prot::{MessageBase, ModifyRequest, RequestType, Resource, UVM_ID};
use crate::storage::{disk, layers, scsi, CombinedLayers, Disk, Roots};

/// Over the device's own limit of five seconds and a format's of 240, which can say more; below
/// the five minutes after which the host gives up.
const DISK_LIMIT: Duration = Duration::from_secs(270);
const LAYERS_LIMIT: Duration = Duration::from_secs(60);

impl Host {
    pub(super) fn modify(&mut self, ticket: Ticket, base: &MessageBase, request: ModifyRequest) {
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
        let for_container = matches!(request.resource, Resource::ContainerConstraints(_));
        if id == UVM_ID && !for_container {
            return Ok(());
        }
        self.container(id)?;
        let kind = request.resource.resource_type();
        Err(Failure::unspecified(if for_container {
            format!("{kind:?} of a container is not supported yet")
        } else {
            format!("{kind:?} belongs to the utility VM, not to container {id:?}")
        }))
    }

    fn modify_uvm(&mut self, ticket: Ticket, request: ModifyRequest) {
        let ModifyRequest {
            request_type,
            resource,
        } = request;
        match (resource, request_type) {
            (Resource::MappedVirtualDisk(disk), RequestType::Add) => self.add_disk(ticket, disk),
            (Resource::MappedVirtualDisk(disk), RequestType::Remove) => {
                self.remove_disk(ticket, disk);
            }
            (Resource::ScsiDevice(device), RequestType::Remove) => self.modify_task(
                ticket,
                format!("removing SCSI disk {}:{}", device.controller, device.lun),
                DISK_LIMIT,
                move || scsi::remove(&Roots::default(), device.controller, device.lun),
            ),
            (Resource::CombinedLayers(combined), RequestType::Add) => {
                let root = &combined.container_root_path;
                let paths: Vec<_> = combined.layers.iter().map(|layer| &layer.path).collect();
                let doing = format!("combining layers at {root:?}");
                match CombinedLayers::new(root, &paths, &combined.scratch_path) {
                    Ok(order) => {
                        self.modify_task(ticket, doing, LAYERS_LIMIT, move || layers::add(&order));
                    }
                    Err(failure) => self.outbox.answer(ticket, Err(failure)),
                }
            }
            (Resource::CombinedLayers(combined), RequestType::Remove) => {
                let root = combined.container_root_path;
                let doing = format!("removing combined layers at {root:?}");
                self.modify_task(ticket, doing, LAYERS_LIMIT, move || layers::remove(&root));
            }
            (Resource::SecurityPolicy(policy), _) => {
                let result = self.set_policy(
                    policy.encoded_security_policy.is_empty() && policy.enforcer_type.is_empty(),
                );
                self.outbox.answer(ticket, result);
            }
            (
                resource @ (Resource::MappedVirtualDisk(_)
                | Resource::ScsiDevice(_)
                | Resource::CombinedLayers(_)),
                request_type,
            ) => {
                let kind = resource.resource_type();
                let text = format!("{kind:?} knows no request {request_type:?}");
                self.outbox.answer(ticket, Err(Failure::unspecified(text)));
            }
            // Nothing is remembered of adapters yet, so there is none to find: a success.
            (Resource::Network(_), RequestType::Remove) => {
                self.outbox.answer(ticket, Ok(Reply::Done));
            }
            (resource, _) => {
                let text = format!("{:?} is not supported yet", resource.resource_type());
                self.outbox.answer(ticket, Err(Failure::unspecified(text)));
            }
        }
    }

    fn modify_task(
        &mut self,
        ticket: Ticket,
        doing: String,
        limit: Duration,
        job: impl FnOnce() -> Result<(), Failure>,
    ) {
        self.run(doing, limit, job, move |host, done: Result<(), Failure>| {
            host.outbox.answer(ticket, done.map(|()| Reply::Done));
        });
    }

    /// Only the empty policy is known, once: everything is allowed (protocol 7.11).
    fn set_policy(&mut self, empty: bool) -> Result<Reply, Failure> {
        if self.security_policy_set {
            return Err(Failure::unspecified("the security policy is set already"));
        }
        if !empty {
            let text = "this guest enforces no security policy: only the empty one is accepted";
            return Err(Failure::unspecified(text));
        }
        self.security_policy_set = true;
        Ok(Reply::Done)
    }

    fn add_disk(&mut self, ticket: Ticket, settings: MappedVirtualDisk) {
        let path = settings.mount_path.clone();
        // The path is taken before the disk is looked for: of two requests one is refused.
        if let Err(failure) = self.disks.begin_add(&path) {
            return self.outbox.answer(ticket, Err(failure));
        }
        let disk = Disk {
            controller: settings.controller,
            lun: settings.lun,
            partition: settings.partition,
            mount_path: settings.mount_path,
            read_only: settings.read_only,
            encrypted: settings.encrypted,
            options: settings.options,
            ensure_filesystem: settings.ensure_filesystem,
            filesystem: settings.filesystem,
        };
        let doing = format!(
            "adding SCSI disk {}:{} at {path:?}",
            disk.controller, disk.lun
        );
        self.run(
            doing,
            DISK_LIMIT,
            move || disk::add(&Roots::default(), &disk),
            move |host, added: Result<disk::Record, Failure>| {
                let (record, result) = match added {
                    Ok(record) => (Some(record), Ok(Reply::Done)),
                    Err(failure) => (None, Err(failure)),
                };
                host.disks.end_add(&path, record);
                host.outbox.answer(ticket, result);
            },
        );
    }

    fn remove_disk(&mut self, ticket: Ticket, settings: MappedVirtualDisk) {
        let path = settings.mount_path;
        let address = (settings.controller, settings.lun, settings.partition);
        if let Err(failure) = self.disks.begin_remove(&path, address) {
            return self.outbox.answer(ticket, Err(failure));
        }
        let mount_path = path.clone();
        self.run(
            format!("removing the disk at {path:?}"),
            DISK_LIMIT,
            move || disk::remove(&mount_path),
            move |host, removed: Result<(), Failure>| {
                host.disks.end_remove(&path, removed.is_ok());
                host.outbox.answer(ticket, removed.map(|()| Reply::Done));
            },
        );
    }
}
