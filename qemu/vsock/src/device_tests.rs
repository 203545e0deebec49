//! A guest that writes into its queues what no driver would. The memory is real, the guest is not.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::faults::Faults;
use crate::packet::{Op, HOST_CID, TYPE_STREAM};

const CID: u64 = 3;
const SIZE: u16 = 16;
/// Where the three parts of each queue are, and the buffers of all.
const RINGS: [u64; 2] = [0x1000, 0x5000];
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000;
/// Of a descriptor: the device may write there.
const WRITE: u16 = 2;

struct Guest {
    memory: GuestMemoryMmap,
    backend: Backend,
    _dir: tempfile::TempDir,
    socket: PathBuf,
}

impl Guest {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("v");
        let muxer = Muxer::new(CID, &socket, Faults::default()).unwrap();
        let memory: GuestMemoryMmap =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let shared = GuestMemoryAtomic::new(memory.clone());
        let mut backend = Backend::new(muxer, shared.clone());
        for ring in RINGS {
            let vring = Vring::new(shared.clone(), SIZE).unwrap();
            vring.set_queue_size(SIZE);
            vring
                .set_queue_info(ring, ring + AVAILABLE, ring + USED)
                .unwrap();
            vring.set_queue_ready(true);
            backend.vrings.push(vring);
        }
        Self {
            memory,
            backend,
            _dir: dir,
            socket,
        }
    }

    /// A descriptor of this many bytes at the end of a queue.
    fn offer(&mut self, queue: usize, number: u16, length: u32, flags: u16) -> u64 {
        let address = BUFFERS + u64::from(number) * 0x1_0000 + queue as u64 * 0x20_0000;
        let descriptor = RINGS[queue] + 16 * u64::from(number);
        let put = |at: u64, bytes: &[u8]| self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        put(descriptor, &address.to_le_bytes());
        put(descriptor + 8, &length.to_le_bytes());
        put(descriptor + 12, &flags.to_le_bytes());
        let available = RINGS[queue] + AVAILABLE;
        put(available + 4 + 2 * u64::from(number), &number.to_le_bytes());
        self.say_available(queue, number + 1);
        address
    }

    fn say_available(&self, queue: usize, index: u16) {
        let at = GuestAddress(RINGS[queue] + AVAILABLE + 2);
        self.memory.write_slice(&index.to_le_bytes(), at).unwrap();
    }

    /// How many buffers the device has given back.
    fn used(&self, queue: usize) -> u16 {
        let at = GuestAddress(RINGS[queue] + USED + 2);
        self.memory.read_obj(at).unwrap()
    }

    /// Dials a port of the host, where `bytes` wait to be sent to the guest.
    fn dial_a_sender(&mut self, bytes: &[u8]) -> std::os::unix::net::UnixStream {
        let listener = UnixListener::bind(format!("{}_7", self.socket.display())).unwrap();
        let header = Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: 9,
            dst_port: 7,
            len: 0,
            kind: TYPE_STREAM,
            op: Some(Op::Request),
            flags: 0,
            buf_alloc: 1 << 20,
            fwd_cnt: 0,
        };
        let address = self.offer(TX, 0, HEADER_LEN as u32, 0);
        let memory = &self.memory;
        memory
            .write_slice(&header.encode(), GuestAddress(address))
            .unwrap();
        self.backend.run().unwrap();
        assert_eq!(self.used(TX), 1);
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(bytes).unwrap();
        stream
    }

    /// Runs the device as an event would; it must come back.
    fn run(self) -> Self {
        let (done, ran) = mpsc::channel();
        let mut guest = self;
        std::thread::spawn(move || {
            // A broken queue is an error, and not the end.
            drop(guest.backend.run());
            drop(done.send(guest));
        });
        ran.recv_timeout(Duration::from_secs(60))
            .expect("the device goes on without end")
    }
}

#[test]
fn buffers_that_hold_no_payload_are_given_back() {
    let mut guest = Guest::new();
    let _stream = guest.dial_a_sender(b"hello");
    for number in 0..SIZE - 1 {
        guest.offer(RX, number, HEADER_LEN as u32, WRITE);
    }
    let mut guest = guest.run();
    assert_eq!(guest.used(RX), SIZE - 1);
    // A good one gets what waits: first the answer to the dial.
    let address = guest.offer(RX, SIZE - 1, 4096, WRITE);
    let guest = guest.run();
    assert_eq!(guest.used(RX), SIZE);
    let mut raw = [0; HEADER_LEN];
    let memory = &guest.memory;
    memory.read_slice(&mut raw, GuestAddress(address)).unwrap();
    assert_eq!(Header::decode(&raw).op, Some(Op::Response));
}

#[test]
fn an_index_beyond_the_queue_ends_a_round_and_not_the_device() {
    for queue in [RX, TX] {
        let mut guest = Guest::new();
        let _stream = guest.dial_a_sender(b"hello");
        guest.say_available(queue, 5000);
        let guest = guest.run();
        drop(guest.run());
    }
}
