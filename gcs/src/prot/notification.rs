//! The one message the guest sends unasked (protocol section 4.13).

use super::json::{is_default, names, wire};
use super::{HResult, MessageBase};

wire! {
    /// `prot.ContainerNotification`: "the container's init has exited". At most one for each
    /// container, after the answers to all waits for it (P-023).
    pub struct ContainerNotification: MessageBase {
        pub kind: NotificationType = "Type",
        pub operation: ActiveOperation = "Operation",
        pub result: HResult = "Result",
        /// JSON as text; a host refuses the empty text.
        pub result_info: String = "ResultInfo" unless "is_default",
    }
}

impl ContainerNotification {
    /// An exit; `activity_id` is that of the Create request.
    #[must_use]
    pub fn exit(container_id: &str, activity_id: &str, kind: NotificationType) -> Self {
        Self {
            base: MessageBase {
                container_id: container_id.to_owned(),
                activity_id: activity_id.to_owned(),
                ..MessageBase::default()
            },
            kind,
            ..Self::default()
        }
    }
}

names! {
    /// `prot.NotificationType`
    #[derive(Default)]
    pub enum NotificationType {
        /// `prot.NtNone`
        #[default]
        None = "None",
        /// `prot.NtGracefulExit`
        GracefulExit = "GracefulExit",
        /// `prot.NtForcedExit`
        ForcedExit = "ForcedExit",
        /// `prot.NtUnexpectedExit`
        UnexpectedExit = "UnexpectedExit",
        /// `prot.NtReboot`
        Reboot = "Reboot",
        /// `prot.NtConstructed`
        Constructed = "Constructed",
        /// `prot.NtStarted`
        Started = "Started",
        /// `prot.NtPaused`
        Paused = "Paused",
        /// `prot.NtUnknown`
        Unknown = "Unknown",
    }
}

names! {
    /// `prot.ActiveOperation`
    #[derive(Default)]
    pub enum ActiveOperation {
        /// `prot.AoNone`
        #[default]
        None = "None",
        /// `prot.AoConstruct`
        Construct = "Construct",
        /// `prot.AoStart`
        Start = "Start",
        /// `prot.AoPause`
        Pause = "Pause",
        /// `prot.AoResume`
        Resume = "Resume",
        /// `prot.AoShutdown`
        Shutdown = "Shutdown",
        /// `prot.AoTerminate`
        Terminate = "Terminate",
    }
}
