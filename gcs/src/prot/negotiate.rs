//! Protocol versions and capabilities (protocol section 4.1).

use super::json::{is_default, names, wire};
use super::{MessageBase, MessageResponseBase};

/// `prot.ProtocolVersion`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion(pub u32);

impl ProtocolVersion {
    /// `prot.PvInvalid`
    pub const INVALID: Self = Self(0);
    /// The retired protocol, which had no negotiation (section 8).
    pub const V3: Self = Self(3);
    /// `prot.PvV4`
    pub const V4: Self = Self(4);
    /// `prot.PvMax`
    pub const MAX: Self = Self::V4;
}

wire! {
    /// `prot.NegotiateProtocol`
    pub struct NegotiateProtocol: MessageBase {
        pub minimum_version: u32 = "MinimumVersion",
        pub maximum_version: u32 = "MaximumVersion",
    }
}

wire! {
    /// `prot.NegotiateProtocolResponse`
    pub struct NegotiateProtocolResponse: MessageResponseBase {
        /// The host wants exactly 4.
        pub version: u32 = "Version",
        pub capabilities: GcsCapabilities = "Capabilities",
    }
}

wire! {
    /// What this GCS can do (`prot.GcsCapabilities`).
    pub struct GcsCapabilities {
        /// Asks the host for a Create for the VM itself.
        pub send_host_create_message: bool = "SendHostCreateMessage" unless "is_default",
        /// Asks the host for a Start after it.
        pub send_host_start_message: bool = "SendHostStartMessage" unless "is_default",
        pub hv_socket_config_on_startup: bool = "HvSocketConfigOnStartup" unless "is_default",
        pub supported_schema_versions: Vec<SchemaVersion> = "SupportedSchemaVersions" unless "is_default",
        pub runtime_os_type: OsType = "RuntimeOsType" unless "is_default",
        pub guest_defined_capabilities: GcsGuestCapabilities = "GuestDefinedCapabilities",
    }
}

wire! {
    /// What hcsshim, the client of the HCS, may ask for (`prot.GcsGuestCapabilities`).
    pub struct GcsGuestCapabilities {
        pub namespace_add_request_supported: bool = "NamespaceAddRequestSupported" unless "is_default",
        pub signal_process_supported: bool = "SignalProcessSupported" unless "is_default",
        pub dump_stacks_supported: bool = "DumpStacksSupported" unless "is_default",
        pub delete_container_state_supported: bool = "DeleteContainerStateSupported" unless "is_default",
    }
}

impl GcsCapabilities {
    /// What the Linux guest of protocol version 4 answers.
    #[must_use]
    pub fn linux() -> Self {
        Self {
            supported_schema_versions: vec![SchemaVersion::V2_1],
            runtime_os_type: OsType::Linux,
            guest_defined_capabilities: GcsGuestCapabilities {
                namespace_add_request_supported: true,
                signal_process_supported: true,
                dump_stacks_supported: true,
                delete_container_state_supported: true,
            },
            ..Self::default()
        }
    }
}

names! {
    /// `prot.OsType`
    pub enum OsType {
        /// `prot.OsTypeLinux`
        Linux = "Linux",
    }
}

/// The empty text; a host takes it for Windows.
impl Default for OsType {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

wire! {
    /// Version of the documents in Create (`prot.SchemaVersion`). Compares as
    /// `prot.SchemaVersion.Cmp` does.
    #[derive(Copy, Eq, PartialOrd, Ord)]
    pub struct SchemaVersion {
        pub major: u32 = "Major" unless "is_default",
        pub minor: u32 = "Minor" unless "is_default",
    }
}

impl SchemaVersion {
    /// The lowest one that names an OCI specification.
    pub const V2_1: Self = Self { major: 2, minor: 1 };
}
