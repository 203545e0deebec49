//! The messages between host and guest, as data. No I/O here.
//!
//! There is one file per noun. Each type says which type of hcsshim's `prot` it stands for. serde
//! writes every message, and [`json`] reads it by the rules of the host's encoder. Both directions
//! are here although the guest needs only one of each, because tests write what they read. The fake
//! host (crate `uvm-host`) has its own code.

pub mod base;
pub mod command_line;
pub mod create;
pub mod header;
pub mod ids;
pub mod json;
pub mod modify;
pub mod negotiate;
pub mod notification;
pub mod oci;
pub mod process;
pub mod properties;
pub mod settings;
pub mod stats;
pub mod v1;

mod hresult;

pub use base::{ErrorRecord, MessageBase, MessageResponseBase, SpanContext, TraceContext, UVM_ID};
pub use create::{
    ContainerCreate, ContainerCreateResponse, ProtocolSupport, VmHostedContainerSettingsV2,
};
pub use header::{MessageHeader, SequenceId, MESSAGE_HEADER_SIZE};
pub use hresult::HResult;
pub use ids::{MessageCategory, MessageId, MessageKind};
pub use modify::{ContainerModifySettings, ModifyRequest, RequestType, Resource, ResourceType};
pub use negotiate::{
    GcsCapabilities, GcsGuestCapabilities, NegotiateProtocol, NegotiateProtocolResponse, OsType,
    ProtocolVersion, SchemaVersion,
};
pub use notification::{ActiveOperation, ContainerNotification, NotificationType};
pub use process::{
    ContainerExecuteProcess, ContainerExecuteProcessResponse, ContainerResizeConsole,
    ContainerSignalProcess, ContainerWaitForProcess, ContainerWaitForProcessResponse,
    ExecuteProcessSettings, ProcessParameters, SignalProcessOptions, VsockStdioRelaySettings,
    INFINITE_WAIT_TIMEOUT,
};
pub use properties::{
    ContainerGetProperties, ContainerGetPropertiesResponse, DumpStacksResponse, ProcessDetails,
    Properties, PropertiesV2, PropertyQuery, PropertyType,
};
