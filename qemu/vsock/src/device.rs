//! The virtqueues: moves packets between guest memory and the [`Muxer`].
//!
//! Queue 0 brings packets to the guest, 1 takes its packets, 2 (events) is never used. One worker
//! thread of `vhost-user-backend` calls `handle_event` for a kick of a queue and for the muxer's
//! epoll; each call runs until neither side can go on.

use std::io::{self, Read, Write};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringMutex, VringState, VringT};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::{Error as QueueError, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    new_event_consumer_and_notifier, EventConsumer, EventFlag, EventNotifier,
};

use crate::muxer::Muxer;
use crate::packet::{Header, HEADER_LEN};

const RX: usize = 0;
const TX: usize = 1;
const QUEUES: usize = 3;
const QUEUE_SIZE: usize = 1024;
/// The event number of the muxer's epoll; the queues and the exit event come before it.
pub const MUXER_EVENT: u64 = QUEUES as u64 + 1;
/// Most payload bytes of one packet (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE` of Linux).
const MAX_PAYLOAD: usize = 64 * 1024;
/// What a guest does wrong is logged that often. It could do it at every packet.
const MOST_COMPLAINTS: u32 = 32;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Vring = VringMutex<Memory>;

/// The device behind the vhost-user socket.
pub struct Backend {
    muxer: Muxer,
    memory: Memory,
    /// The queues, known from the first event on.
    vrings: Vec<Vring>,
    /// A QEMU has shared its memory.
    used: bool,
    scratch: Vec<u8>,
    complaints: u32,
}

impl Backend {
    pub fn new(muxer: Muxer, memory: Memory) -> Backend {
        Backend {
            muxer,
            memory,
            vrings: Vec::new(),
            used: false,
            scratch: vec![0; MAX_PAYLOAD],
            complaints: 0,
        }
    }

    pub fn muxer(&mut self) -> &mut Muxer {
        &mut self.muxer
    }

    /// Whether a QEMU, and not only somebody who tried the socket, was ever connected.
    pub fn was_used(&self) -> bool {
        self.used
    }

    /// Logs what the guest did wrong.
    fn complain(&mut self, what: std::fmt::Arguments<'_>) {
        self.complaints = self.complaints.saturating_add(1);
        match self.complaints {
            ..MOST_COMPLAINTS => log::warn!("vsock: {what}"),
            MOST_COMPLAINTS => log::warn!("vsock: {what}; no more is said of this guest"),
            _ => {}
        }
    }

    /// Runs until the guest has nothing to send and nothing (or no room) to receive.
    fn run(&mut self) -> Result<(), QueueError> {
        let [rx, tx] = [RX, TX].map(|queue| self.vrings[queue].clone());
        loop {
            self.muxer.poll();
            let taken = self.take_packets(&mut tx.get_mut())?;
            let given = self.give_packets(&mut rx.get_mut())?;
            self.muxer.settle();
            if !taken && !given {
                return Ok(());
            }
        }
    }

    /// Takes the guest's packets, at most a queue full; true when there was one.
    fn take_packets(&mut self, vring: &mut VringState<Memory>) -> Result<bool, QueueError> {
        if !vring.get_queue().ready() {
            return Ok(false);
        }
        let memory = self.memory.memory();
        let mut taken = 0;
        for _ in 0..vring.get_queue().size() {
            let Some(chain) = vring.get_queue_mut().pop_descriptor_chain(memory.clone()) else {
                // Asks for a kick; true when a packet came in between.
                if vring.enable_notification()? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            match chain.reader(&memory).map_err(io::Error::other) {
                Ok(mut reader) => {
                    if let Err(e) = self.take_packet(&mut reader) {
                        self.complain(format_args!("a packet of the guest is dropped: {e}"));
                    }
                }
                Err(e) => self.complain(format_args!("a bad descriptor chain of the guest: {e}")),
            }
            vring.add_used(head, 0)?;
            taken += 1;
        }
        notify(vring, taken)?;
        Ok(taken > 0)
    }

    fn take_packet(&mut self, reader: &mut impl Read) -> io::Result<()> {
        let mut raw = [0; HEADER_LEN];
        reader.read_exact(&mut raw)?;
        let header = Header::decode(&raw);
        let len = header.len as usize;
        if len > MAX_PAYLOAD {
            let what = format!("{len} bytes of payload, more than {MAX_PAYLOAD}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        reader.read_exact(&mut self.scratch[..len])?;
        self.muxer.receive(&header, &self.scratch[..len]);
        Ok(())
    }

    /// Gives the guest what there is, as far as it has free buffers. Returns whether there was
    /// anything.
    fn give_packets(&mut self, vring: &mut VringState<Memory>) -> Result<bool, QueueError> {
        if !vring.get_queue().ready() {
            return Ok(false);
        }
        let memory = self.memory.memory();
        let (mut given, mut used) = (false, 0);
        // A queue full of turns at most, however useless the guest's buffers are.
        for _ in 0..vring.get_queue().size() {
            if !self.muxer.has_packet() {
                break;
            }
            let Some(chain) = vring.get_queue_mut().pop_descriptor_chain(memory.clone()) else {
                if vring.enable_notification()? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            used += 1;
            let room = chain.writer(&memory).map(|writer| {
                let room = writer.available_bytes().saturating_sub(HEADER_LEN);
                (writer, room.min(MAX_PAYLOAD))
            });
            let (mut writer, room) = match room {
                Ok((writer, room)) if room > 0 => (writer, room),
                Ok(_) => {
                    self.complain(format_args!("a buffer of the guest holds a header at most"));
                    vring.add_used(head, 0)?;
                    continue;
                }
                Err(e) => {
                    self.complain(format_args!("a bad descriptor chain of the guest: {e}"));
                    vring.add_used(head, 0)?;
                    continue;
                }
            };
            let Some(header) = self.muxer.next_packet(&mut self.scratch[..room]) else {
                vring.get_queue_mut().go_to_previous_position();
                used -= 1;
                break;
            };
            let len = header.len as usize;
            let written = writer
                .write_all(&header.encode())
                .and_then(|()| writer.write_all(&self.scratch[..len]));
            if let Err(e) = written {
                log::error!("vsock: cannot write a packet into guest memory: {e}");
            }
            vring.add_used(head, (HEADER_LEN + len) as u32)?;
            given = true;
        }
        notify(vring, used)?;
        Ok(given)
    }
}

/// Tells the guest about used buffers, if there are some and it wants to know.
fn notify(vring: &mut VringState<Memory>, used: u16) -> Result<(), QueueError> {
    if used > 0 && vring.needs_notification()? {
        if let Err(e) = vring.signal_used_queue() {
            log::warn!("vsock: cannot signal the guest: {e}");
        }
    }
    Ok(())
}

impl VhostUserBackendMut for Backend {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
    }

    fn reset_device(&mut self) {
        self.muxer.reset();
    }

    /// The queues keep the flag themselves.
    fn set_event_idx(&mut self, _enabled: bool) {}

    /// `struct virtio_vsock_config`: the guest's context id.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.muxer.cid().to_le_bytes();
        let asked = config.iter().skip(offset as usize).take(size as usize);
        asked.copied().collect()
    }

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = memory;
        self.used = true;
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        match new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC) {
            Ok(event) => Some(event),
            Err(e) => {
                log::error!("vsock: cannot make the exit event: {e}");
                None
            }
        }
    }

    /// QEMU stops the queues when the guest powers off. What the guest had put into its queue by
    /// then was sent, so it is taken, though the queue counts as stopped by now.
    fn stop_vring(&mut self, index: u32) -> io::Result<()> {
        if index as usize == TX {
            if let Some(vring) = self.vrings.get(TX).cloned() {
                vring.set_queue_ready(true);
                let last = self.take_packets(&mut vring.get_mut());
                vring.set_queue_ready(false);
                last.map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn handle_event(
        &mut self,
        _event: u16,
        _events: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        if self.vrings.is_empty() {
            self.vrings = vrings.to_vec();
        }
        // An error here would end the worker, so it is ignored. A guest that breaks its queues
        // harms only itself.
        if let Err(e) = self.run() {
            self.complain(format_args!("the guest's queues are broken: {e}"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
