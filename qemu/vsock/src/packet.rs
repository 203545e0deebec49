//! The 44-byte header in front of every vsock packet (virtio 1.2, 5.10.6), decoded and encoded.
//!
//! Nothing here trusts the guest: a header is plain numbers until the muxer has looked at them.

/// The host's context id; the only destination the device serves.
pub const HOST_CID: u64 = 2;
/// Bytes of an encoded header.
pub const HEADER_LEN: usize = 44;
/// `VIRTIO_VSOCK_TYPE_STREAM`: the only socket type the device serves.
pub const TYPE_STREAM: u16 = 1;
/// SHUTDOWN flag: the sender of the packet will receive no more.
pub const SHUTDOWN_RCV: u32 = 1;
/// SHUTDOWN flag: the sender of the packet will send no more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both SHUTDOWN flags.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RCV | SHUTDOWN_SEND;

/// What a packet asks for (`VIRTIO_VSOCK_OP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    Request = 1,
    Response = 2,
    Rst = 3,
    Shutdown = 4,
    Rw = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    fn from_wire(value: u16) -> Option<Op> {
        Some(match value {
            1 => Op::Request,
            2 => Op::Response,
            3 => Op::Rst,
            4 => Op::Shutdown,
            5 => Op::Rw,
            6 => Op::CreditUpdate,
            7 => Op::CreditRequest,
            _ => return None,
        })
    }
}

/// The two ports that name a connection; the context ids are fixed for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub host_port: u32,
    pub guest_port: u32,
}

/// One header. `op` is `None` for a number the standard does not define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    /// Bytes of payload after the header.
    pub len: u32,
    pub kind: u16,
    pub op: Option<Op>,
    pub flags: u32,
    /// Size of the sender's receive buffer in bytes.
    pub buf_alloc: u32,
    /// Bytes the sender has taken out of that buffer so far, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// A packet from the host to the guest; the muxer fills in the guest's context id.
    pub fn to_guest(key: Key, op: Op) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: 0,
            src_port: key.host_port,
            dst_port: key.guest_port,
            len: 0,
            kind: TYPE_STREAM,
            op: Some(op),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    /// The connection a packet *from* the guest belongs to.
    pub fn key(&self) -> Key {
        Key {
            host_port: self.dst_port,
            guest_port: self.src_port,
        }
    }

    pub fn decode(raw: &[u8; HEADER_LEN]) -> Header {
        fn at<const N: usize>(raw: &[u8; HEADER_LEN], start: usize) -> [u8; N] {
            std::array::from_fn(|i| raw[start + i])
        }
        Header {
            src_cid: u64::from_le_bytes(at(raw, 0)),
            dst_cid: u64::from_le_bytes(at(raw, 8)),
            src_port: u32::from_le_bytes(at(raw, 16)),
            dst_port: u32::from_le_bytes(at(raw, 20)),
            len: u32::from_le_bytes(at(raw, 24)),
            kind: u16::from_le_bytes(at(raw, 28)),
            op: Op::from_wire(u16::from_le_bytes(at(raw, 30))),
            flags: u32::from_le_bytes(at(raw, 32)),
            buf_alloc: u32::from_le_bytes(at(raw, 36)),
            fwd_cnt: u32::from_le_bytes(at(raw, 40)),
        }
    }

    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut raw = [0; HEADER_LEN];
        raw[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        raw[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        raw[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        raw[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        raw[24..28].copy_from_slice(&self.len.to_le_bytes());
        raw[28..30].copy_from_slice(&self.kind.to_le_bytes());
        raw[30..32].copy_from_slice(&self.op.map_or(0, |op| op as u16).to_le_bytes());
        raw[32..36].copy_from_slice(&self.flags.to_le_bytes());
        raw[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        raw[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_the_wire_and_unknown_op_becomes_none() {
        let key = Key {
            host_port: 0x4000_0001,
            guest_port: 7,
        };
        let mut header = Header::to_guest(key, Op::Shutdown);
        header.dst_cid = 0x0102_0304_0506_0708;
        header.len = 9;
        header.flags = SHUTDOWN_SEND;
        header.buf_alloc = 0xfff0_0001;
        header.fwd_cnt = 0x8000_0000;
        let mut raw = header.encode();
        assert_eq!(Header::decode(&raw), header);
        assert_eq!(
            raw[8..16],
            [8, 7, 6, 5, 4, 3, 2, 1],
            "little endian on the wire"
        );
        raw[30] = 99;
        assert_eq!(Header::decode(&raw).op, None);
    }
}
