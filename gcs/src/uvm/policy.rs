//! The security policy of the VM (protocol 7.11, 9.1): which requests of the host are carried out.
//! This guest has the two enforcers that need no policy language, the open door and the closed one.
//!
//! The door stands as `-initial-policy-stance` says until the one SecurityPolicy request of the
//! host opens it. A policy that this guest could not enforce is refused, never taken for another.

use std::path::Path;

use crate::bridge::codec::Request;
use crate::bundle::Security;
use crate::config::Stance;
use crate::error::Failure;
use crate::prot::settings::SecurityPolicy;
use crate::prot::{RequestType, Resource, UVM_ID};

/// What a policy decides on; everything else is always allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    MountDevice,
    UnmountDevice,
    MountOverlay,
    UnmountOverlay,
    MountPlan9,
    UnmountPlan9,
    Create,
    ExecInContainer,
    ExecInVm,
    Shutdown,
    Signal,
    Properties,
    Stacks,
    Fragment,
    LogOutput,
}

impl Act {
    /// What the request is for the policy. `id` is its container or the VM.
    pub fn of(request: &Request, id: &str) -> Option<Self> {
        Some(match request {
            Request::Create(_) => Self::Create,
            Request::ExecuteProcess(_) if id == UVM_ID => Self::ExecInVm,
            Request::ExecuteProcess(body) => {
                let process = &body.settings.process_parameters;
                match (process.create_in_utility_vm, &process.oci_process) {
                    (true, _) => Self::ExecInVm,
                    (false, Some(_)) => Self::ExecInContainer,
                    // The policy has decided on the first process at its Create.
                    (false, None) => return None,
                }
            }
            // The VM itself can always be ended: a policy protects what runs in it.
            Request::ShutdownGraceful(_) | Request::ShutdownForced(_) if id == UVM_ID => {
                return None
            }
            Request::ShutdownGraceful(_) | Request::ShutdownForced(_) => Self::Shutdown,
            Request::SignalProcess(_) => Self::Signal,
            Request::GetProperties(_) => Self::Properties,
            Request::DumpStacks => Self::Stacks,
            Request::ModifySettings(body) => {
                return Self::of_resource(&body.request.resource, &body.request.request_type)
            }
            Request::Negotiate(_)
            | Request::Start(_)
            | Request::WaitForProcess(_)
            | Request::ResizeConsole(_)
            | Request::DeleteContainerState(_) => return None,
        })
    }

    fn of_resource(resource: &Resource, request: &RequestType) -> Option<Self> {
        let (add, remove) = match resource {
            Resource::MappedVirtualDisk(_) | Resource::VpMemDevice(_) => {
                (Self::MountDevice, Self::UnmountDevice)
            }
            Resource::CombinedLayers(_) => (Self::MountOverlay, Self::UnmountOverlay),
            Resource::MappedDirectory(_) => (Self::MountPlan9, Self::UnmountPlan9),
            Resource::SecurityPolicyFragment(_) => (Self::Fragment, Self::Fragment),
            Resource::ScsiDevice(_)
            | Resource::Network(_)
            | Resource::VpciDevice(_)
            | Resource::ContainerConstraints(_)
            | Resource::SecurityPolicy(_)
            | Resource::PodCgroupMemoryLimit(_)
            | Resource::Unknown(_) => return None,
        };
        match request {
            RequestType::Add => Some(add),
            RequestType::Remove => Some(remove),
            // No resource that a policy looks at has these request types, so they fail anyway.
            RequestType::Update | RequestType::PreAdd | RequestType::Other(_) => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
}

/// The VM's policy, and what the host sent with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    door: Door,
    set: bool,
    /// What the host sent, for the containers (5.10).
    sent: Security,
}

impl Policy {
    pub fn new(stance: Stance) -> Self {
        Self {
            door: match stance {
                Stance::Allow => Door::Open,
                Stance::Deny => Door::Closed,
            },
            set: false,
            sent: Security::default(),
        }
    }

    /// What the host sent, in base64 and as it was; "" for what it did not send (5.10).
    pub fn sent(&self) -> &Security {
        &self.sent
    }

    /// # Errors
    /// The policy in force denies it (0x80004005).
    pub fn permit(&self, act: Act) -> Result<(), Failure> {
        match self.door {
            Door::Open => Ok(()),
            Door::Closed => Err(Failure::unspecified(format!(
                "{act:?} is denied by the security policy: \
                 -initial-policy-stance is deny and no policy was set"
            ))),
        }
    }

    /// The SecurityPolicy request, whatever its RequestType. `confidential`: the VM has a
    /// device that attests to its policy.
    ///
    /// # Errors
    /// A second one; an enforcer this guest does not have; a policy whose measure it cannot
    /// check. A refused one does not count, so that the host can send another.
    pub fn set(&mut self, sent: SecurityPolicy, confidential: bool) -> Result<(), Failure> {
        let refuse = |text: String| Err(Failure::unspecified(text));
        if self.set {
            return refuse("the security policy is set already: a VM has one for its life".into());
        }
        let empty = sent.encoded_security_policy.is_empty();
        match sent.enforcer_type.as_str() {
            "" if empty => {}
            "open_door" => {}
            "" | "standard" | "rego" => {
                return refuse(
                    "this guest has no enforcer for security policies: it takes an empty one, \
                     or one for the enforcer open_door"
                        .into(),
                );
            }
            _ => return refuse("there is no security policy enforcer of that name".into()),
        }
        if !is_base64(&sent.encoded_security_policy) {
            return refuse("EncodedSecurityPolicy is not base64".into());
        }
        if confidential {
            return refuse(
                "this guest cannot compare a security policy with the VM's attestation report, \
                 which a confidential VM needs"
                    .into(),
            );
        }
        self.set = true;
        self.door = Door::Open;
        self.sent = Security {
            policy: sent.encoded_security_policy,
            reference: sent.encoded_uvm_reference,
            hash_envelope: sent.encoded_uvm_hash_envelope,
        };
        Ok(())
    }
}

/// Whether the VM has a device that attests to it (AMD SEV-SNP).
pub fn is_confidential() -> bool {
    ["/dev/sev", "/dev/sev-guest"]
        .iter()
        .any(|dev| Path::new(dev).exists())
}

/// What SecurityPolicyFragment answers (9.3).
pub fn fragment_refused() -> Failure {
    Failure::unspecified("security policy fragments are not supported: no enforcer here loads any")
}

/// RFC 4648, with padding.
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    text.len().is_multiple_of(4)
        && text.len() - digits.len() <= 2
        && digits
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
