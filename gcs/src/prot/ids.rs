//! Message identifiers (`prot.MessageIdentifier`, protocol section 1.2).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The `Type` field of a frame, as sent: kind (4 bits), category (8), number (12), version (8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub u32);

/// The top four bits of a [`MessageId`] (`prot.MessageType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// `prot.MtNone`
    None,
    /// `prot.MtRequest`
    Request,
    /// `prot.MtResponse`
    Response,
    /// `prot.MtNotification`
    Notification,
    /// No kind the protocol knows.
    Other,
}

/// The category bits of a [`MessageId`] (`prot.MessageCategory`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageCategory(pub u32);

impl MessageCategory {
    /// `prot.McNone`
    pub const NONE: Self = Self(0);
    /// `prot.McComputeSystem`
    pub const COMPUTE_SYSTEM: Self = Self(0x0010_0000);
}

impl MessageKind {
    /// `prot.MtNone`
    pub const NONE_BITS: u32 = 0;
    /// `prot.MtRequest`
    pub const REQUEST_BITS: u32 = 0x1000_0000;
    /// `prot.MtResponse`
    pub const RESPONSE_BITS: u32 = 0x2000_0000;
    /// `prot.MtNotification`
    pub const NOTIFICATION_BITS: u32 = 0x3000_0000;
    const MASK: u32 = 0xf000_0000;
}

/// One row per message: constant, value, `prot` name.
macro_rules! messages {
    ($( $(#[$meta:meta])* $name:ident = $value:literal, $text:literal; )*) => {
        impl MessageId {
            $( $(#[$meta])* #[doc = concat!("`prot.", $text, "`")] pub const $name: Self = Self($value); )*

            /// Every message the protocol names, with that name.
            pub const NAMED: &'static [(Self, &'static str)] = &[$( (Self::$name, $text) ),*];
        }
    };
}

messages! {
    NONE = 0x0000_0000, "MiNone";
    CREATE = 0x1010_0101, "ComputeSystemCreateV1";
    START = 0x1010_0201, "ComputeSystemStartV1";
    SHUTDOWN_GRACEFUL = 0x1010_0301, "ComputeSystemShutdownGracefulV1";
    SHUTDOWN_FORCED = 0x1010_0401, "ComputeSystemShutdownForcedV1";
    EXECUTE_PROCESS = 0x1010_0501, "ComputeSystemExecuteProcessV1";
    WAIT_FOR_PROCESS = 0x1010_0601, "ComputeSystemWaitForProcessV1";
    SIGNAL_PROCESS = 0x1010_0701, "ComputeSystemSignalProcessV1";
    RESIZE_CONSOLE = 0x1010_0801, "ComputeSystemResizeConsoleV1";
    GET_PROPERTIES = 0x1010_0901, "ComputeSystemGetPropertiesV1";
    MODIFY_SETTINGS = 0x1010_0a01, "ComputeSystemModifySettingsV1";
    NEGOTIATE_PROTOCOL = 0x1010_0b01, "ComputeSystemNegotiateProtocolV1";
    DUMP_STACKS = 0x1010_0c01, "ComputeSystemDumpStacksV1";
    DELETE_CONTAINER_STATE = 0x1010_0d01, "ComputeSystemDeleteContainerStateV1";
    RESPONSE_CREATE = 0x2010_0101, "ComputeSystemResponseCreateV1";
    RESPONSE_START = 0x2010_0201, "ComputeSystemResponseStartV1";
    RESPONSE_SHUTDOWN_GRACEFUL = 0x2010_0301, "ComputeSystemResponseShutdownGracefulV1";
    RESPONSE_SHUTDOWN_FORCED = 0x2010_0401, "ComputeSystemResponseShutdownForcedV1";
    RESPONSE_EXECUTE_PROCESS = 0x2010_0501, "ComputeSystemResponseExecuteProcessV1";
    RESPONSE_WAIT_FOR_PROCESS = 0x2010_0601, "ComputeSystemResponseWaitForProcessV1";
    RESPONSE_SIGNAL_PROCESS = 0x2010_0701, "ComputeSystemResponseSignalProcessV1";
    RESPONSE_RESIZE_CONSOLE = 0x2010_0801, "ComputeSystemResponseResizeConsoleV1";
    RESPONSE_GET_PROPERTIES = 0x2010_0901, "ComputeSystemResponseGetPropertiesV1";
    RESPONSE_MODIFY_SETTINGS = 0x2010_0a01, "ComputeSystemResponseModifySettingsV1";
    RESPONSE_NEGOTIATE_PROTOCOL = 0x2010_0b01, "ComputeSystemResponseNegotiateProtocolV1";
    RESPONSE_DUMP_STACKS = 0x2010_0c01, "ComputeSystemResponseDumpStacksV1";
    RESPONSE_DELETE_CONTAINER_STATE = 0x2010_0d01, "ComputeSystemResponseDeleteContainerStateV1";
    NOTIFICATION = 0x3010_0101, "ComputeSystemNotificationV1";
}

impl MessageId {
    #[must_use]
    pub fn kind(self) -> MessageKind {
        match self.0 & MessageKind::MASK {
            MessageKind::NONE_BITS => MessageKind::None,
            MessageKind::REQUEST_BITS => MessageKind::Request,
            MessageKind::RESPONSE_BITS => MessageKind::Response,
            MessageKind::NOTIFICATION_BITS => MessageKind::Notification,
            _ => MessageKind::Other,
        }
    }

    /// The type of the answer to a request of this type, known or not
    /// (`prot.GetResponseIdentifier`, P-004, P-014).
    #[must_use]
    pub fn response(self) -> Self {
        Self(self.0 & !MessageKind::MASK | MessageKind::RESPONSE_BITS)
    }

    /// The protocol's name, if it has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED
            .iter()
            .find(|(id, _)| *id == self)
            .map(|(_, name)| *name)
    }
}

/// The protocol's name, else the number (`prot.MessageIdentifier.String`).
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "0x{:08x}", self.0),
        }
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
