//! GetProperties and DumpStacks (protocol sections 4.9 and 4.11).

use super::json::{is_default, names, wire, Nested};
use super::{stats, MessageBase, MessageResponseBase};

wire! {
    /// `prot.ContainerGetProperties`
    pub struct ContainerGetProperties: MessageBase {
        /// Absent asks for nothing.
        pub query: Nested<PropertyQuery> = "Query",
    }
}

wire! {
    /// `prot.PropertyQuery`
    pub struct PropertyQuery {
        pub property_types: Vec<PropertyType> = "PropertyTypes" unless "is_default",
    }
}

names! {
    /// `prot.PropertyType`; texts are compared exactly.
    pub enum PropertyType {
        /// `prot.PtMemory`
        Memory = "Memory",
        /// `prot.PtCPUGroup`
        CpuGroup = "CpuGroup",
        /// `prot.PtStatistics`
        Statistics = "Statistics",
        /// `prot.PtProcessList`
        ProcessList = "ProcessList",
        /// `prot.PtPendingUpdates`
        PendingUpdates = "PendingUpdates",
        /// `prot.PtTerminateOnLastHandleClosed`
        TerminateOnLastHandleClosed = "TerminateOnLastHandleClosed",
        /// `prot.PtMappedDirectory`
        MappedDirectory = "MappedDirectory",
        /// `prot.PtSystemGUID`
        SystemGuid = "SystemGUID",
        /// `prot.PtNetwork`
        Network = "Network",
        /// `prot.PtMappedPipe`
        MappedPipe = "MappedPipe",
        /// `prot.PtMappedVirtualDisk`
        MappedVirtualDisk = "MappedVirtualDisk",
    }
}

impl Default for PropertyType {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

wire! {
    /// `prot.ContainerGetPropertiesResponse`
    pub struct ContainerGetPropertiesResponse: MessageResponseBase {
        /// A host refuses a success without it.
        pub properties: Nested<PropertiesV2> = "Properties",
    }
}

wire! {
    /// `prot.PropertiesV2`; `prot.Properties` is the same without the statistics.
    pub struct PropertiesV2 {
        pub process_list: Vec<ProcessDetails> = "ProcessList" unless "is_default",
        pub metrics: Option<Box<stats::Metrics>> = "LCOWMetrics" unless "is_default",
    }
}

wire! {
    /// `prot.Properties`
    pub struct Properties {
        pub process_list: Vec<ProcessDetails> = "ProcessList" unless "is_default",
    }
}

wire! {
    /// `prot.ProcessDetails`
    #[derive(Copy, Eq)]
    pub struct ProcessDetails {
        pub process_id: u32 = "ProcessId",
    }
}

wire! {
    /// `prot.DumpStacksResponse`
    pub struct DumpStacksResponse: MessageResponseBase {
        /// Free text for the host's log.
        pub guest_stacks: String = "GuestStacks",
    }
}
