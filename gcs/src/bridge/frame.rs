//! Frames: bytes in, whole messages out, and back. No I/O.
//!
//! # The wire format in short
//! A stream socket carries frames in both directions. Each frame is a header of 16 bytes and a
//! JSON payload; all numbers are little-endian:
//!
//! ```text
//! offset  0        4        8                 16
//!         ┌────────┬────────┬─────────────────┬───────────── ─ ─
//!         │ type   │ size   │ sequence        │ payload, size − 16 bytes
//!         │ u32    │ u32    │ u64             │ UTF-8 JSON, may be empty
//!         └────────┴────────┴─────────────────┴───────────── ─ ─
//! ```
//!
//! `size` counts the header. A response has the request's type with another kind in the top four
//! bits, and its sequence unchanged. A notification has sequence 0. The host takes frames of at
//! most 65536 bytes and drops the bridge over a longer one. It sends frames of any size, of which
//! the guest takes up to 64 MiB.
//!
//! Memory grows with the bytes received, never with the size that a header announces.

use std::collections::VecDeque;

use crate::prot::{MessageHeader, MessageId, SequenceId, MESSAGE_HEADER_SIZE};

/// Largest frame taken from the host, in bytes with the header.
pub const MAX_FROM_HOST: u32 = 64 << 20;
/// Largest frame that a host takes from the guest, in bytes with the header (P-005).
pub const MAX_TO_HOST: usize = 65536;
/// Largest payload of such a frame, in bytes.
pub const MAX_PAYLOAD_TO_HOST: usize = MAX_TO_HOST - MESSAGE_HEADER_SIZE;

/// How far memory may run ahead of what has been received, in bytes.
const STEP: usize = 256 << 10;

/// One whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// As sent, known or not.
    pub id: MessageId,
    pub sequence: SequenceId,
    pub payload: Vec<u8>,
}

/// A stream that is not made of frames. There is no way to find the next one in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of type {id} says it has {size} bytes, fewer than its header")]
    TooSmall { id: MessageId, size: u32 },
    #[error("frame of type {id} says it has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        id: MessageId,
        size: u32,
        limit: u32,
    },
    #[error("payload of {size} bytes does not fit a frame of {limit}")]
    Unsendable { size: usize, limit: usize },
}

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub struct Decoder {
    limit: u32,
    header: [u8; MESSAGE_HEADER_SIZE],
    /// Bytes of `header` that are there.
    filled: usize,
    payload: Vec<u8>,
    ready: VecDeque<Frame>,
    failed: Option<FrameError>,
}

impl Decoder {
    /// `limit` is the largest frame taken, in bytes with the header: [`MAX_FROM_HOST`] in the
    /// guest.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            header: [0; MESSAGE_HEADER_SIZE],
            filled: 0,
            payload: Vec::new(),
            ready: VecDeque::new(),
            failed: None,
        }
    }

    /// Takes bytes from the stream, however it was cut. After a [`FrameError`] they are
    /// dropped.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.failed.is_none() && !bytes.is_empty() {
            if self.filled < MESSAGE_HEADER_SIZE {
                let taken = bytes.len().min(MESSAGE_HEADER_SIZE - self.filled);
                self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                self.filled += taken;
                bytes = &bytes[taken..];
                if self.filled < MESSAGE_HEADER_SIZE {
                    return;
                }
                self.failed = self.judge();
                if self.failed.is_some() {
                    return;
                }
            }
            let taken = bytes.len().min(self.wanted() - self.payload.len());
            if self.payload.capacity() - self.payload.len() < taken {
                let missing = self.wanted() - self.payload.len();
                self.payload.reserve_exact(missing.min(taken.max(STEP)));
            }
            self.payload.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.payload.len() == self.wanted() {
                let header = MessageHeader::from_bytes(self.header);
                self.filled = 0;
                self.ready.push_back(Frame {
                    id: header.id,
                    sequence: header.sequence,
                    payload: std::mem::take(&mut self.payload),
                });
            }
        }
    }

    /// The next whole frame, in the order received; `None` until more is fed.
    ///
    /// # Errors
    /// The header after the last good frame makes no sense. Every later call fails too.
    #[allow(clippy::should_implement_trait)] // An error here is final, which no iterator says.
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        match (self.ready.pop_front(), self.failed) {
            (Some(frame), _) => Ok(Some(frame)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    /// Whether the stream stands inside a frame: its end now means a frame cut short.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.filled > 0
    }

    /// Payload bytes that the header announces.
    fn wanted(&self) -> usize {
        (MessageHeader::from_bytes(self.header).size as usize).saturating_sub(MESSAGE_HEADER_SIZE)
    }

    fn judge(&self) -> Option<FrameError> {
        let MessageHeader { id, size, .. } = MessageHeader::from_bytes(self.header);
        if (size as usize) < MESSAGE_HEADER_SIZE {
            Some(FrameError::TooSmall { id, size })
        } else if size > self.limit {
            let limit = self.limit;
            Some(FrameError::TooLarge { id, size, limit })
        } else {
            None
        }
    }
}

/// One frame as bytes, at most `limit` of them: [`MAX_TO_HOST`] in the guest.
///
/// # Errors
/// The payload is too long.
pub fn encode(
    id: MessageId,
    sequence: SequenceId,
    payload: &[u8],
    limit: usize,
) -> Result<Vec<u8>, FrameError> {
    let size = MESSAGE_HEADER_SIZE + payload.len();
    let error = FrameError::Unsendable {
        size: payload.len(),
        limit,
    };
    if size > limit {
        return Err(error);
    }
    let header = MessageHeader {
        id,
        size: u32::try_from(size).map_err(|_| error)?,
        sequence,
    };
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&header.to_bytes());
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_is_received_not_what_is_announced() {
        let header = MessageHeader {
            id: MessageId::CREATE,
            size: MAX_FROM_HOST,
            sequence: 1,
        };
        let mut decoder = Decoder::new(MAX_FROM_HOST);
        decoder.feed(&header.to_bytes());
        assert_eq!(decoder.payload.capacity(), 0);
        let chunk = [b' '; 1000];
        for sent in 1..2000 {
            decoder.feed(&chunk);
            assert!(decoder.payload.capacity() <= sent * chunk.len() + STEP);
        }
        assert_eq!(decoder.next(), Ok(None));
    }
}
