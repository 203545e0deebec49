//! The retired container schema (protocol section 8.2).

use super::json::{is_default, wire};
pub use super::settings::Layer;

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
