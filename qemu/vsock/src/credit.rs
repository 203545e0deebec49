//! Credit of one connection: who may still send how much (virtio 1.2, 5.10.6.3).
//!
//! All counters run modulo 2³². The guest may send [`BUFFER`] bytes more than the device has passed
//! on and announced. The device may send as many bytes as the guest has announced beyond those that
//! it has taken.

use crate::packet::Header;

/// Receive buffer advertised to the guest, per connection, in bytes.
pub const BUFFER: usize = 256 * 1024;
/// Tell the guest about freed buffer space once this much is unannounced.
const ANNOUNCE: u32 = BUFFER as u32 / 4;

#[derive(Debug, Default)]
pub struct Credit {
    /// Payload bytes of the guest we have passed on.
    passed: u32,
    /// What the guest was last told of `passed`.
    announced: u32,
    /// The guest asked for an update.
    asked: bool,
    /// We asked for an update and wait for it.
    waiting: bool,
    /// Payload bytes we have sent.
    sent: u32,
    guest_alloc: u32,
    guest_fwd: u32,
}

impl Credit {
    /// Takes what every packet of the guest says about its buffer.
    pub fn hear(&mut self, header: &Header) {
        self.guest_alloc = header.buf_alloc;
        self.guest_fwd = header.fwd_cnt;
        if self.room() > 0 {
            self.waiting = false;
        }
    }

    /// Puts our side into a packet for the guest.
    pub fn tell(&mut self, header: &mut Header) {
        header.buf_alloc = BUFFER as u32;
        header.fwd_cnt = self.passed;
        self.announced = self.passed;
        self.asked = false;
    }

    /// Payload bytes the guest has room for.
    pub fn room(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.guest_fwd);
        self.guest_alloc.saturating_sub(in_flight) as usize
    }

    pub fn passed(&mut self, bytes: usize) {
        self.passed = self.passed.wrapping_add(bytes as u32);
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.wrapping_add(bytes as u32);
    }

    /// The guest sent CREDIT_REQUEST.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// An update is due.
    pub fn is_due(&self) -> bool {
        self.asked || self.passed.wrapping_sub(self.announced) >= ANNOUNCE
    }

    /// We should send a CREDIT_REQUEST: once per time without room.
    pub fn should_request(&self) -> bool {
        self.room() == 0 && !self.waiting
    }

    /// We have sent it.
    pub fn requested(&mut self) {
        self.waiting = true;
    }
}
