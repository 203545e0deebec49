//! Create (protocol section 4.2).

use super::json::{is_default, wire, Nested};
use super::{oci, MessageBase, MessageResponseBase, SchemaVersion};

wire! {
    /// `prot.ContainerCreate`
    pub struct ContainerCreate: MessageBase {
        pub container_config: Nested<VmHostedContainerSettingsV2> = "ContainerConfig",
        /// Sent by older hosts, not used.
        pub supported_versions: ProtocolSupport = "SupportedVersions" unless "is_default",
    }
}

wire! {
    /// `prot.ContainerCreateResponse`
    pub struct ContainerCreateResponse: MessageResponseBase {
        pub selected_version: String = "SelectedVersion" unless "is_default",
        /// 3 in the retired protocol, else 0.
        pub selected_protocol_version: u32 = "SelectedProtocolVersion",
    }
}

wire! {
    /// `prot.ProtocolSupport`
    pub struct ProtocolSupport {
        pub minimum_version: String = "MinimumVersion" unless "is_default",
        pub maximum_version: String = "MaximumVersion" unless "is_default",
        pub minimum_protocol_version: u32 = "MinimumProtocolVersion",
        pub maximum_protocol_version: u32 = "MaximumProtocolVersion",
    }
}

wire! {
    /// The document in `ContainerConfig` (`prot.VMHostedContainerSettingsV2`).
    pub struct VmHostedContainerSettingsV2 {
        pub schema_version: SchemaVersion = "SchemaVersion",
        /// Directory for `config.json`.
        pub oci_bundle_path: String = "OciBundlePath" unless "is_default",
        pub oci_specification: Option<oci::Spec> = "OciSpecification" unless "is_default",
        /// Directory that DeleteContainerState removes; "" = none.
        pub scratch_dir_path: String = "ScratchDirPath",
    }
}
