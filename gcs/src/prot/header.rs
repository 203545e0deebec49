//! The sixteen bytes before every payload (`prot.MessageHeader`, protocol section 1.2).

use super::MessageId;

/// `prot.SequenceID`: chosen by the host, echoed unchanged; 0 in notifications.
pub type SequenceId = u64;

/// `prot.MessageHeaderSize`, in bytes.
pub const MESSAGE_HEADER_SIZE: usize = 16;

/// `prot.MessageHeader`. Little-endian on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHeader {
    pub id: MessageId,
    /// Bytes of the whole frame, this header included.
    pub size: u32,
    pub sequence: SequenceId,
}

impl MessageHeader {
    #[must_use]
    pub fn from_bytes(bytes: [u8; MESSAGE_HEADER_SIZE]) -> Self {
        let word = u128::from_le_bytes(bytes);
        // Truncation takes each field out of the little-endian whole.
        #[allow(clippy::cast_possible_truncation)]
        Self {
            id: MessageId(word as u32),
            size: (word >> 32) as u32,
            sequence: (word >> 64) as u64,
        }
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; MESSAGE_HEADER_SIZE] {
        let word =
            u128::from(self.id.0) | u128::from(self.size) << 32 | u128::from(self.sequence) << 64;
        word.to_le_bytes()
    }
}
