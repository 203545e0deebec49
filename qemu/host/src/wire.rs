//! Frames and message numbers as the host sees them (protocol 1.2 and 1.3).
//!
//! Written apart from `gcs::bridge` on purpose: this side judges the guest, and a mistake shared
//! with the guest would go unseen.

use std::io::{self, Read, Write};

/// Bytes of the header: type u32, size u32 (header included), id u64, all little-endian.
pub const HEADER: usize = 16;
/// The largest frame a real host takes, header included.
pub const MAX_FRAME: u32 = 0x1_0000;

const REQUEST: u32 = 0x1000_0000;
const RESPONSE: u32 = 0x2000_0000;
const KIND: u32 = 0xf000_0000;
/// The one notification there is.
pub const NOTIFICATION: u32 = 0x3010_0101;

/// The requests of protocol version 4, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Rpc {
    /// `prot.ContainerCreate`, protocol 4.2.
    Create = 0x1010_0101,
    /// `prot.MessageBase`, protocol 4.3.
    Start = 0x1010_0201,
    /// `prot.MessageBase`, protocol 4.8.
    ShutdownGraceful = 0x1010_0301,
    /// `prot.MessageBase`, protocol 4.8.
    ShutdownForced = 0x1010_0401,
    /// `prot.ContainerExecuteProcess`, protocol 4.4.
    ExecuteProcess = 0x1010_0501,
    /// `prot.ContainerWaitForProcess`, protocol 4.5.
    WaitForProcess = 0x1010_0601,
    /// `prot.ContainerSignalProcess`, protocol 4.6.
    SignalProcess = 0x1010_0701,
    /// `prot.ContainerResizeConsole`, protocol 4.7.
    ResizeConsole = 0x1010_0801,
    /// `prot.ContainerGetProperties`, protocol 4.9.
    GetProperties = 0x1010_0901,
    /// `prot.ContainerModifySettings`, protocol 4.10.
    ModifySettings = 0x1010_0a01,
    /// `prot.NegotiateProtocol`, protocol 4.1.
    NegotiateProtocol = 0x1010_0b01,
    /// `prot.MessageBase`, protocol 4.11.
    DumpStacks = 0x1010_0c01,
    /// `prot.MessageBase`, protocol 4.12.
    DeleteContainerState = 0x1010_0d01,
}

impl Rpc {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Create,
        Self::Start,
        Self::ShutdownGraceful,
        Self::ShutdownForced,
        Self::ExecuteProcess,
        Self::WaitForProcess,
        Self::SignalProcess,
        Self::ResizeConsole,
        Self::GetProperties,
        Self::ModifySettings,
        Self::NegotiateProtocol,
        Self::DumpStacks,
        Self::DeleteContainerState,
    ];

    /// The request that a request or response type belongs to.
    pub fn of(message: u32) -> Option<Self> {
        let request = (message & !KIND) | REQUEST;
        Self::ALL.into_iter().find(|rpc| *rpc as u32 == request)
    }
}

/// The type of the answer to a request of any type, known or not.
pub fn response_to(request: u32) -> u32 {
    (request & !KIND) | RESPONSE
}

/// Whether a frame of this type answers a request.
pub fn is_response(message: u32) -> bool {
    message & KIND == RESPONSE
}

/// Names a message type for people: `Create request`, or the bare number.
pub fn name(message: u32) -> String {
    let kind = match message & KIND {
        REQUEST => "request",
        RESPONSE => "response",
        _ if message == NOTIFICATION => return "notification".into(),
        _ => return format!("message type {message:#010x}"),
    };
    match Rpc::of(message) {
        Some(rpc) => format!("{rpc:?} {kind}"),
        None => format!("{kind} of unknown type {message:#010x}"),
    }
}

/// One whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type: request, response or notification, and which.
    pub message: u32,
    /// That of the request and of its answer; 0 for a notification.
    pub id: u64,
    /// JSON, without a byte order mark or a NUL at its end.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Header and payload as they go over the bridge.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = u32::try_from(HEADER + self.payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + self.payload.len());
        bytes.extend_from_slice(&self.message.to_le_bytes());
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Writes it whole. Blocks as `to` does.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.to_bytes())
    }
}

/// Why no frame can be read. The bridge is of no more use after it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, {got} of {want} bytes in")]
    Cut {
        /// Bytes that came.
        got: usize,
        /// Bytes that the frame has.
        want: usize,
    },
    /// The size is none that a host takes (protocol 1.3).
    #[error(
        "{} with id {id} has the size {size}; a host takes 16 to 65536 bytes, header included",
        name(*.message)
    )]
    Size {
        /// The type in the header.
        message: u32,
        /// The id in the header.
        id: u64,
        /// The size in the header.
        size: u32,
    },
    /// The bridge failed.
    #[error("reading a frame failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads one frame; `None` at a clean end of the stream. Blocks.
pub fn read_frame(from: &mut impl Read) -> Result<Option<Frame>, FrameError> {
    let mut header = [0_u8; HEADER];
    match fill(from, &mut header)? {
        0 => return Ok(None),
        HEADER => {}
        got => return Err(FrameError::Cut { got, want: HEADER }),
    }
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (message, size) = (word(0), word(4));
    let id = u64::from(word(8)) | u64::from(word(12)) << 32;
    if size < HEADER as u32 || size > MAX_FRAME {
        return Err(FrameError::Size { message, id, size });
    }
    let mut payload = vec![0; size as usize - HEADER];
    let got = fill(from, &mut payload)?;
    if got < payload.len() {
        let (got, want) = (HEADER + got, size as usize);
        return Err(FrameError::Cut { got, want });
    }
    Ok(Some(Frame {
        message,
        id,
        payload,
    }))
}

/// Like `read_exact`, but says how far it came.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match from.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // A reset after the guest is gone ends the stream like any other end.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_trip() {
        let frame = Frame {
            message: Rpc::Start as u32,
            id: 7,
            payload: b"{}".to_vec(),
        };
        let bytes = frame.to_bytes();
        // The example of protocol 1.2.
        assert_eq!(
            hex::encode(&bytes),
            "01021010120000000700000000000000".to_owned() + "7b7d"
        );
        assert_eq!(read_frame(&mut &bytes[..]).unwrap(), Some(frame));
        assert!(read_frame(&mut &b""[..]).unwrap().is_none());
    }

    #[test]
    fn sizes_out_of_range_and_cut_frames_are_told() {
        for size in [0_u32, 15, 65537, u32::MAX] {
            let mut bytes = (response_to(Rpc::Start as u32)).to_le_bytes().to_vec();
            bytes.extend(size.to_le_bytes());
            bytes.extend(3_u64.to_le_bytes());
            assert!(
                matches!(
                    read_frame(&mut &bytes[..]),
                    Err(FrameError::Size { id: 3, .. })
                ),
                "{size}"
            );
        }
        let bytes = Frame {
            message: 1,
            id: 1,
            payload: vec![b' '; 9],
        }
        .to_bytes();
        for end in 1..bytes.len() {
            assert!(matches!(
                read_frame(&mut &bytes[..end]),
                Err(FrameError::Cut { .. })
            ));
        }
    }

    #[test]
    fn types_have_names() {
        assert_eq!(name(0x2010_0501), "ExecuteProcess response");
        assert_eq!(response_to(0x1010_0101), 0x2010_0101);
        assert_eq!(Rpc::of(0x2010_0b01), Some(Rpc::NegotiateProtocol));
        assert_eq!(Rpc::of(0x2010_0e01), None);
    }
}
