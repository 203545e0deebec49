//! Result codes (protocol section 3.1). On the wire: signed 32-bit decimals.

use serde::{Deserialize, Serialize};

/// A Windows result code; `0` is success.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HResult(pub i32);

impl HResult {
    pub const OK: Self = Self(0);
    /// Unknown message type, or a known one that is not valid now.
    pub const NOT_IMPLEMENTED: Self = Self::from_bits(0x8000_4001);
    /// Every error without a more telling code.
    pub const FAIL: Self = Self::from_bits(0x8000_4005);
    /// Unknown process, adapter or network namespace.
    pub const NOT_FOUND: Self = Self::from_bits(0x8007_0490);
    pub const INVALID_ARGUMENT: Self = Self::from_bits(0x8007_0057);
    /// The state of the container forbids the operation.
    pub const INVALID_STATE: Self = Self::from_bits(0x8037_0105);
    pub const ALREADY_STOPPED: Self = Self::from_bits(0x8037_0110);
    pub const TIMEOUT: Self = Self::from_bits(0xc037_0109);
    pub const UNKNOWN_MESSAGE: Self = Self::from_bits(0xc037_010b);
    pub const UNSUPPORTED_PROTOCOL_VERSION: Self = Self::from_bits(0xc037_010c);
    pub const INVALID_JSON: Self = Self::from_bits(0xc037_010d);
    /// No container with this id.
    pub const SYSTEM_NOT_FOUND: Self = Self::from_bits(0xc037_010e);
    pub const SYSTEM_ALREADY_EXISTS: Self = Self::from_bits(0xc037_010f);

    const fn from_bits(bits: u32) -> Self {
        Self(bits.cast_signed())
    }
}

impl std::fmt::Debug for HResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HRESULT 0x{:08x}", self.0.cast_unsigned())
    }
}

impl std::fmt::Display for HResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{:08x}", self.0.cast_unsigned())
    }
}
