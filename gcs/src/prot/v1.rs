//! The retired container schema (protocol section 8.2).

use super::json::{is_default, same_name, wire, Cursor, Decode, JsonKind, Nested};
pub use super::settings::Layer;
use super::{MessageBase, ProtocolSupport, RequestType};

wire! {
    /// The document in `ContainerConfig` before schema 2.1 (`prot.VMHostedContainerSettings`).
    pub struct VmHostedContainerSettings {
        /// Disk ids, topmost first (`hcsschema.Layer`).
        pub layers: Vec<Layer> = "Layers",
        /// Disk id of the scratch; "" = none.
        pub sandbox_data_path: String = "SandboxDataPath",
        pub mapped_virtual_disks: Vec<MappedVirtualDisk> = "MappedVirtualDisks",
        pub mapped_directories: Vec<MappedDirectory> = "MappedDirectories",
        pub network_adapters: Vec<NetworkAdapter> = "NetworkAdapters" unless "is_default",
    }
}

wire! {
    /// `prot.MappedVirtualDisk`
    #[derive(Eq)]
    pub struct MappedVirtualDisk {
        pub container_path: String = "ContainerPath",
        pub lun: u8 = "Lun" unless "is_default",
        pub create_in_utility_vm: bool = "CreateInUtilityVM" unless "is_default",
        pub read_only: bool = "ReadOnly" unless "is_default",
        pub attach_only: bool = "AttachOnly" unless "is_default",
    }
}

wire! {
    /// `prot.MappedDirectory`
    #[derive(Eq)]
    pub struct MappedDirectory {
        pub container_path: String = "ContainerPath",
        pub create_in_utility_vm: bool = "CreateInUtilityVM" unless "is_default",
        pub read_only: bool = "ReadOnly" unless "is_default",
        pub port: u32 = "Port" unless "is_default",
    }
}

wire! {
    /// `prot.NetworkAdapter`
    #[derive(Eq)]
    pub struct NetworkAdapter {
        pub adapter_instance_id: String = "AdapterInstanceId",
        pub firewall_enabled: bool = "FirewallEnabled",
        pub nat_enabled: bool = "NatEnabled",
        pub mac_address: String = "MacAddress" unless "is_default",
        pub allocated_ip_address: String = "AllocatedIpAddress" unless "is_default",
        pub host_ip_address: String = "HostIpAddress" unless "is_default",
        pub host_ip_prefix_length: u8 = "HostIpPrefixLength" unless "is_default",
        pub allocated_ipv6_address: String = "AllocatedIpv6Address" unless "is_default",
        pub host_ipv6_address: String = "HostIpv6Address" unless "is_default",
        pub host_ipv6_prefix_length: u8 = "HostIpv6PrefixLength" unless "is_default",
        pub host_dns_server_list: String = "HostDnsServerList" unless "is_default",
        pub host_dns_suffix: String = "HostDnsSuffix" unless "is_default",
        pub enable_low_metric: bool = "EnableLowMetric" unless "is_default",
        pub encap_overhead: u16 = "EncapOverhead" unless "is_default",
    }
}

wire! {
    /// `prot.ContainerCreate` as the retired protocol has it.
    pub struct ContainerCreate: MessageBase {
        pub container_config: Nested<VmHostedContainerSettings> = "ContainerConfig",
        pub supported_versions: ProtocolSupport = "SupportedVersions" unless "is_default",
    }
}

/// ModifySettings of the retired protocol: of a container, and of two kinds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerModifySettings {
    pub base: MessageBase,
    pub request: ModifyRequest,
}

/// One mapping and what to do with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModifyRequest {
    pub request_type: RequestType,
    pub mapping: Mapping,
}

/// `ResourceType` with its settings.
#[derive(Debug, Clone, PartialEq)]
pub enum Mapping {
    Disk(MappedVirtualDisk),
    Directory(MappedDirectory),
    Unknown(String),
}

impl Default for Mapping {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

impl Decode for ContainerModifySettings {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        let mut there = false;
        match cursor.kind() {
            JsonKind::Null => cursor.skip(),
            JsonKind::Object => cursor.object(|name, cursor| {
                if same_name(name, "Request") {
                    there = cursor.kind() != JsonKind::Null;
                    self.request.decode(cursor.at_member("Request"));
                } else if !self.base.member(name, cursor) {
                    cursor.skip();
                }
            }),
            _ => cursor.mismatch("an object"),
        }
        if !there {
            cursor.at_member("Request").misfit("an object", "nothing");
        }
    }
}

impl Decode for ModifyRequest {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        if cursor.kind() != JsonKind::Object {
            return cursor.mismatch("an object");
        }
        let mut kind = String::new();
        let mut settings = None;
        cursor.object(|name, cursor| {
            if same_name(name, "ResourceType") {
                kind.decode(cursor.at_member("ResourceType"));
            } else if same_name(name, "RequestType") {
                self.request_type.decode(cursor.at_member("RequestType"));
            } else {
                if same_name(name, "Settings") {
                    settings = Some(cursor.mark());
                }
                cursor.skip();
            }
        });
        if self.request_type.as_str().is_empty() {
            self.request_type = RequestType::Add;
        }
        let mut disk = MappedVirtualDisk::default();
        let mut directory = MappedDirectory::default();
        let is_disk = kind == "MappedVirtualDisk";
        if !is_disk && kind != "MappedDirectory" {
            self.mapping = Mapping::Unknown(kind);
            return;
        }
        let end = cursor.mark();
        cursor.at_member("Settings");
        match settings {
            None => cursor.misfit("an object", "nothing"),
            Some(mark) => {
                cursor.reset(mark);
                if is_disk {
                    disk.decode(cursor);
                } else {
                    directory.decode(cursor);
                }
            }
        }
        cursor.reset(end);
        self.mapping = match is_disk {
            true => Mapping::Disk(disk),
            false => Mapping::Directory(directory),
        };
    }
}
