//! Settings of the resources that ModifySettings knows (protocol section 7). A container-side
//! mapping of the retired schema is in [`v1`](super::v1).

use serde::Serialize;

use super::json::{is_default, wire, Cursor, Decode};
use super::oci;

wire! {
    /// A disk on a virtual SCSI controller, mounted (7.1).
    pub struct MappedVirtualDisk {
        /// "" = no mount.
        pub mount_path: String = "MountPath" unless "is_default",
        pub lun: u8 = "Lun" unless "is_default",
        /// Host's index, 0 to 3.
        pub controller: u8 = "Controller" unless "is_default",
        /// 0 = the whole disk.
        pub partition: u64 = "Partition" unless "is_default",
        pub read_only: bool = "ReadOnly" unless "is_default",
        /// Put dm-crypt with a fresh key below.
        pub encrypted: bool = "Encrypted" unless "is_default",
        /// Only the propagation options count.
        pub options: Vec<String> = "Options" unless "is_default",
        /// Format when the wanted file system is not there.
        pub ensure_filesystem: bool = "EnsureFilesystem" unless "is_default",
        /// `ext4`, `xfs`, "" = find out.
        pub filesystem: String = "Filesystem" unless "is_default",
        /// Newer hosts: no mount, a link to the device node at `MountPath` (12.3).
        pub block_dev: bool = "BlockDev" unless "is_default",
    }
}

/// The host sends none, and those of another host would mean nothing (16.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NoSettings;

impl Decode for NoSettings {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        cursor.skip();
    }
}

wire! {
    /// A disk to be unplugged (7.2).
    #[derive(Copy, Eq)]
    pub struct ScsiDevice {
        pub controller: u8 = "Controller" unless "is_default",
        pub lun: u8 = "Lun" unless "is_default",
    }
}

wire! {
    /// A directory of the host over Plan 9 (7.3).
    pub struct MappedDirectory {
        pub mount_path: String = "MountPath" unless "is_default",
        /// Vsock port of the server; signed on the wire.
        pub port: i32 = "Port" unless "is_default",
        pub share_name: String = "ShareName" unless "is_default",
        pub read_only: bool = "ReadOnly" unless "is_default",
    }
}

wire! {
    /// A layer on a persistent memory device (7.4).
    pub struct VpMemDevice {
        pub device_number: u32 = "DeviceNumber" unless "is_default",
        pub mount_path: String = "MountPath" unless "is_default",
        /// Present when several layers share the device.
        pub mapping_info: Option<VpMemMapping> = "MappingInfo" unless "is_default",
    }
}

wire! {
    /// A part of a persistent memory device, in bytes.
    #[derive(Copy, Eq)]
    pub struct VpMemMapping {
        pub device_offset_in_bytes: u64 = "DeviceOffsetInBytes" unless "is_default",
        pub device_size_in_bytes: u64 = "DeviceSizeInBytes" unless "is_default",
    }
}

wire! {
    /// Layers and scratch under one root (7.6).
    pub struct CombinedLayers {
        pub container_id: String = "ContainerID" unless "is_default",
        pub container_root_path: String = "ContainerRootPath" unless "is_default",
        /// Topmost first.
        pub layers: Vec<Layer> = "Layers" unless "is_default",
        /// "" = read-only root.
        pub scratch_path: String = "ScratchPath" unless "is_default",
    }
}

wire! {
    /// A mounted layer, or the id of a layer's disk in the retired schema.
    #[derive(Eq)]
    pub struct Layer {
        pub path: String = "Path" unless "is_default",
    }
}

wire! {
    /// A network adapter for a namespace (7.8).
    pub struct NetworkAdapter {
        /// HNS namespace, compared in lower case.
        pub namespace_id: String = "NamespaceID" unless "is_default",
        /// VMBus instance of the adapter.
        pub id: String = "ID" unless "is_default",
        pub mac_address: String = "MacAddress" unless "is_default",
        pub ip_address: String = "IPAddress" unless "is_default",
        pub prefix_length: u8 = "PrefixLength" unless "is_default",
        pub gateway_address: String = "GatewayAddress" unless "is_default",
        pub ipv6_address: String = "IPv6Address" unless "is_default",
        pub ipv6_prefix_length: u8 = "IPv6PrefixLength" unless "is_default",
        pub ipv6_gateway_address: String = "IPv6GatewayAddress" unless "is_default",
        /// Comma separated, as is the next one.
        pub dns_suffix: String = "DNSSuffix" unless "is_default",
        pub dns_server_list: String = "DNSServerList" unless "is_default",
        pub enable_low_metric: bool = "EnableLowMetric" unless "is_default",
        /// Bytes to take off the MTU.
        pub encap_overhead: u16 = "EncapOverhead" unless "is_default",
        /// The adapter is a PCI function.
        pub vpci_assigned: bool = "VPCIAssigned" unless "is_default",
        /// Newer hosts (12.3): not empty, it and the next two replace the single addresses.
        pub ip_configs: Vec<IpConfig> = "IPConfigs" unless "is_default",
        pub routes: Vec<NetworkRoute> = "Routes" unless "is_default",
        pub policy_based_routing: bool = "PolicyBasedRouting" unless "is_default",
    }
}

wire! {
    /// One address of an adapter (12.3).
    #[derive(Eq)]
    pub struct IpConfig {
        pub ip_address: String = "IPAddress" unless "is_default",
        pub prefix_length: u8 = "PrefixLength" unless "is_default",
    }
}

wire! {
    /// One route of an adapter (12.3).
    #[derive(Eq)]
    pub struct NetworkRoute {
        pub next_hop: String = "NextHop" unless "is_default",
        /// Address and prefix length.
        pub destination_prefix: String = "DestinationPrefix" unless "is_default",
        pub metric: u32 = "Metric" unless "is_default",
    }
}

wire! {
    /// A PCI function to wait for (7.9).
    #[derive(Eq)]
    pub struct VpciDevice {
        pub vmbus_guid: String = "VMBusGUID" unless "is_default",
    }
}

wire! {
    /// New limits of a container (7.10).
    pub struct ContainerConstraints {
        /// Absent = the empty document.
        pub linux: Option<oci::LinuxResources> = "Linux" unless "is_default",
    }
}

wire! {
    /// Confidential policy of the VM (7.11). All empty in an ordinary VM.
    #[derive(Eq)]
    pub struct SecurityPolicy {
        pub enforcer_type: String = "EnforcerType" unless "is_default",
        /// Base64, as is the next one.
        pub encoded_security_policy: String = "EncodedSecurityPolicy" unless "is_default",
        pub encoded_uvm_reference: String = "EncodedUVMReference" unless "is_default",
        /// Newer hosts: a reference that is a hash in an envelope, in base64 (16.5).
        pub encoded_uvm_hash_envelope: String = "EncodedUVMHashEnvelopeReference" unless "is_default",
    }
}

wire! {
    /// One more piece of policy (7.11).
    #[derive(Eq)]
    pub struct SecurityPolicyFragment {
        /// Base64 of a COSE document.
        pub fragment: String = "Fragment" unless "is_default",
    }
}
