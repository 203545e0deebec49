//! ModifySettings: which resource, what to do with it (protocol section 4.10).

use serde::{Serialize, Serializer};

use super::json::{names, Cursor, Decode, JsonKind};
use super::settings::{
    CombinedLayers, ContainerConstraints, MappedDirectory, MappedVirtualDisk, NetworkAdapter,
    NoSettings, ScsiDevice, SecurityPolicy, SecurityPolicyFragment, VpMemDevice, VpciDevice,
};
use super::MessageBase;

names! {
    /// `prot.RequestType`
    #[derive(Default)]
    pub enum RequestType {
        /// `prot.RtAdd`; also what an absent or empty text means.
        #[default]
        Add = "Add",
        /// `prot.RtRemove`
        Remove = "Remove",
        /// `prot.RtUpdate`
        Update = "Update",
        PreAdd = "PreAdd",
    }
}

/// `prot.ContainerModifySettings`, read as `prot.UnmarshalContainerModifySettings` does.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ContainerModifySettings {
    #[serde(flatten)]
    pub base: MessageBase,
    #[serde(rename = "Request")]
    pub request: ModifyRequest,
}

/// One resource and its modification (`prot.ResourceModificationRequestResponse`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModifyRequest {
    pub request_type: RequestType,
    pub resource: Resource,
}

macro_rules! resources {
    ($( $(#[$meta:meta])* $variant:ident($settings:ty) = $wire:literal, )*) => {
        names! {
            /// The value of `ResourceType`; compared exactly.
            pub enum ResourceType {
                $( $(#[$meta])* $variant = $wire, )*
            }
        }

        /// A resource of this guest with its settings (protocol section 7).
        #[derive(Debug, Clone, PartialEq)]
        pub enum Resource {
            $( $(#[$meta])* $variant($settings), )*
            /// A type that this guest does not have: the request fails.
            Unknown(String),
        }

        impl Resource {
            #[must_use]
            pub fn resource_type(&self) -> ResourceType {
                match self {
                    $( Self::$variant(_) => ResourceType::$variant, )*
                    Self::Unknown(name) => ResourceType::Other(name.clone()),
                }
            }

            /// The resource `kind` with what stands at the cursor.
            fn decode(kind: ResourceType, cursor: &mut Cursor<'_>) -> Self {
                match kind {
                    $( ResourceType::$variant => {
                        let mut settings = <$settings>::default();
                        settings.decode(cursor);
                        Self::$variant(settings)
                    } )*
                    ResourceType::Other(name) => {
                        cursor.skip();
                        Self::Unknown(name)
                    }
                }
            }
        }

        impl Serialize for Resource {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $( Self::$variant(settings) => settings.serialize(serializer), )*
                    Self::Unknown(_) => serializer.serialize_none(),
                }
            }
        }
    };
}

resources! {
    /// 7.1
    MappedVirtualDisk(MappedVirtualDisk) = "MappedVirtualDisk",
    /// 7.2
    ScsiDevice(ScsiDevice) = "SCSIDevice",
    /// 7.3
    MappedDirectory(MappedDirectory) = "MappedDirectory",
    /// 7.4
    VpMemDevice(VpMemDevice) = "VPMemDevice",
    /// 7.6
    CombinedLayers(CombinedLayers) = "CombinedLayers",
    /// 7.8
    Network(NetworkAdapter) = "Network",
    /// 7.9
    VpciDevice(VpciDevice) = "VPCIDevice",
    /// 7.10, the only one that goes to a container
    ContainerConstraints(ContainerConstraints) = "ContainerConstraints",
    /// 7.11
    SecurityPolicy(SecurityPolicy) = "SecurityPolicy",
    /// 7.11
    SecurityPolicyFragment(SecurityPolicyFragment) = "SecurityPolicyFragment",
    /// 16.3
    PodCgroupMemoryLimit(NoSettings) = "PodCgroupMemoryLimit",
}

impl Default for ResourceType {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl Default for Resource {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

impl Serialize for ModifyRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Flat<'a> {
            request_type: &'a RequestType,
            resource_type: ResourceType,
            settings: &'a Resource,
        }
        Flat {
            request_type: &self.request_type,
            resource_type: self.resource.resource_type(),
            settings: &self.resource,
        }
        .serialize(serializer)
    }
}

impl Decode for ContainerModifySettings {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        // The base first: its errors come before those of the request.
        let mut request = None;
        match cursor.kind() {
            JsonKind::Null => cursor.skip(),
            JsonKind::Object => cursor.object(|name, cursor| {
                if super::json::same_name(name, "Request") {
                    request = Some(cursor.mark());
                    cursor.skip();
                } else if !self.base.member(name, cursor) {
                    cursor.skip();
                }
            }),
            _ => cursor.mismatch("an object"),
        }
        cursor.at_member("Request");
        let Some(mark) = request else {
            return cursor.misfit("an object", "nothing");
        };
        let end = cursor.mark();
        cursor.reset(mark);
        self.request.decode(cursor);
        cursor.reset(end);
    }
}

impl Decode for ModifyRequest {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        if cursor.kind() != JsonKind::Object {
            return cursor.mismatch("an object");
        }
        let mut kind = ResourceType::default();
        let mut settings = None;
        cursor.object(|name, cursor| {
            if super::json::same_name(name, "ResourceType") {
                kind.decode(cursor.at_member("ResourceType"));
            } else if super::json::same_name(name, "RequestType") {
                self.request_type.decode(cursor.at_member("RequestType"));
            } else {
                if super::json::same_name(name, "Settings") {
                    settings = Some(cursor.mark());
                }
                cursor.skip();
            }
        });
        if self.request_type.as_str().is_empty() {
            self.request_type = RequestType::Add;
        }
        if let ResourceType::Other(name) = kind {
            self.resource = Resource::Unknown(name);
            return;
        }
        if kind == ResourceType::PodCgroupMemoryLimit {
            self.resource = Resource::PodCgroupMemoryLimit(NoSettings);
            return;
        }
        let end = cursor.mark();
        if let Some(mark) = settings {
            cursor.reset(mark);
        }
        cursor.at_member("Settings");
        if settings.is_none() || cursor.kind() == JsonKind::Null {
            cursor.misfit("an object", "nothing");
        } else {
            self.resource = Resource::decode(kind, cursor);
        }
        cursor.reset(end);
    }
}
