//! Processes: execute, wait, signal, resize (protocol sections 4.4 to 4.7).

use std::collections::BTreeMap;

use super::json::{is_default, wire, Nested};
use super::{oci, MessageBase, MessageResponseBase};

/// `prot.InfiniteWaitTimeout`: [`ContainerWaitForProcess::timeout_in_ms`] that never ends.
pub const INFINITE_WAIT_TIMEOUT: u32 = u32::MAX;

wire! {
    /// `prot.ContainerExecuteProcess`
    pub struct ContainerExecuteProcess: MessageBase {
        pub settings: ExecuteProcessSettings = "Settings",
    }
}

wire! {
    /// `prot.ExecuteProcessSettings`
    pub struct ExecuteProcessSettings {
        pub process_parameters: Nested<ProcessParameters> = "ProcessParameters",
        pub vsock_stdio_relay_settings: VsockStdioRelaySettings = "VsockStdioRelaySettings",
    }
}

wire! {
    /// Vsock ports of the streams, 0 = none (`prot.ExecuteProcessVsockStdioRelaySettings`).
    /// A port counts only when its `CreateStd…Pipe` is true.
    #[derive(Copy, Eq)]
    pub struct VsockStdioRelaySettings {
        pub std_in: u32 = "StdIn" unless "is_default",
        pub std_out: u32 = "StdOut" unless "is_default",
        pub std_err: u32 = "StdErr" unless "is_default",
    }
}

wire! {
    /// The document in [`ExecuteProcessSettings`] (`prot.ProcessParameters`). Three cases: a
    /// process of the VM itself (`create_in_utility_vm`, or the container id of the VM); one
    /// more process in a container (`oci_process`); a container's init (neither).
    pub struct ProcessParameters {
        /// Used only without `command_args`; see [`command_line::split`](super::command_line::split).
        pub command_line: String = "CommandLine" unless "is_default",
        pub command_args: Vec<String> = "CommandArgs" unless "is_default",
        pub working_directory: String = "WorkingDirectory" unless "is_default",
        /// The whole environment, nothing is inherited.
        pub environment: BTreeMap<String, String> = "Environment" unless "is_default",
        pub emulate_console: bool = "EmulateConsole" unless "is_default",
        pub create_std_in_pipe: bool = "CreateStdInPipe" unless "is_default",
        pub create_std_out_pipe: bool = "CreateStdOutPipe" unless "is_default",
        pub create_std_err_pipe: bool = "CreateStdErrPipe" unless "is_default",
        /// `IsExternal` in `prot`.
        pub create_in_utility_vm: bool = "CreateInUtilityVM" unless "is_default",
        /// Retired protocol only.
        pub oci_specification: Option<oci::Spec> = "OciSpecification" unless "is_default",
        pub oci_process: Option<oci::Process> = "OciProcess" unless "is_default",
    }
}

wire! {
    /// `prot.ContainerExecuteProcessResponse`
    pub struct ContainerExecuteProcessResponse: MessageResponseBase {
        /// In the root pid namespace of the VM.
        pub process_id: u32 = "ProcessId",
    }
}

wire! {
    /// `prot.ContainerWaitForProcess`
    pub struct ContainerWaitForProcess: MessageBase {
        pub process_id: u32 = "ProcessId",
        /// Milliseconds; 0 = answer at once, [`INFINITE_WAIT_TIMEOUT`] = no limit.
        pub timeout_in_ms: u32 = "TimeoutInMs",
    }
}

wire! {
    /// `prot.ContainerWaitForProcessResponse`
    pub struct ContainerWaitForProcessResponse: MessageResponseBase {
        pub exit_code: u32 = "ExitCode",
    }
}

wire! {
    /// `prot.ContainerSignalProcess`
    pub struct ContainerSignalProcess: MessageBase {
        pub process_id: u32 = "ProcessId",
        pub options: Option<SignalProcessOptions> = "Options" unless "is_default",
    }
}

wire! {
    /// `prot.SignalProcessOptions`
    #[derive(Copy, Eq)]
    pub struct SignalProcessOptions {
        /// Linux signal number; 0 = SIGKILL.
        pub signal: i32 = "Signal" unless "is_default",
    }
}

impl ContainerSignalProcess {
    /// The signal meant: SIGKILL unless another one is named.
    #[must_use]
    pub fn signal(&self) -> i32 {
        match self.options.unwrap_or_default().signal {
            0 => libc::SIGKILL,
            signal => signal,
        }
    }
}

wire! {
    /// `prot.ContainerResizeConsole`
    pub struct ContainerResizeConsole: MessageBase {
        pub process_id: u32 = "ProcessId",
        /// Rows.
        pub height: u16 = "Height",
        /// Columns.
        pub width: u16 = "Width",
    }
}
