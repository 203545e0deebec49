//! Bytes that both ends of a connection can make; compiled into the guest and into its test.

/// A stream of bytes, another for each seed.
pub struct Pattern(pub u64);

impl Pattern {
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}
