//! The log's connection to the host, dialled here when the boot could not have it and whenever it
//! is lost. Records made meanwhile wait in the log's ring.
//!
//! Bytes that the host's socket had accepted but the host has not read are lost when it closes. The
//! guest cannot find that out.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::Uvm;
use crate::log;
use crate::transport::DialFailure;

/// The pause before the first dial after a loss, and the longest pause after failed dials. A host
/// that takes no log is not unusual.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

#[derive(Debug, Default)]
pub struct LogChannel {
    /// None: the log does not go to a port of the host.
    port: Option<u32>,
    is_dialled: bool,
    /// Dials that have failed since the last connection.
    failed: u32,
}

impl LogChannel {
    pub fn new(port: Option<u32>) -> Self {
        Self {
            port,
            ..Self::default()
        }
    }

    fn pause(&self) -> Duration {
        let (first, last) = PAUSE;
        (first * 2_u32.saturating_pow(self.failed.min(16))).min(last)
    }

    fn connected(&mut self, connection: OwnedFd) {
        let failed = std::mem::take(&mut self.failed);
        ::log::info!("the log is connected, after {failed} failed dials");
        if let Err(error) = log::attach(connection) {
            ::log::error!("the log's new connection: {error}");
        }
    }

    fn refused(&mut self, failure: &DialFailure) {
        // Once, not with each attempt.
        if self.failed == 0 {
            ::log::warn!("{failure}; the log waits");
        }
        self.failed = self.failed.saturating_add(1);
    }
}

impl Uvm {
    /// Makes sure that the log is connected or a dial is due. The loop calls it in each turn.
    pub fn tend_log(&mut self) {
        let channel = &mut self.log_channel;
        let Some(port) = channel.port else { return };
        if !channel.is_dialled && log::pollable().is_none() {
            channel.is_dialled = true;
            let at = Instant::now() + channel.pause();
            self.at(at, "dial of the log", move |uvm| uvm.dial_log(port));
        }
    }

    fn dial_log(&mut self, port: u32) {
        self.dial(vec![port], |uvm, dialled| {
            uvm.log_channel.is_dialled = false;
            match dialled.map(|mut connections| connections.pop()) {
                Ok(Some(connection)) => uvm.log_channel.connected(connection),
                Ok(None) => {}
                Err(failure) => uvm.log_channel.refused(&failure),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut channel = LogChannel::new(Some(109));
        assert_eq!(channel.pause(), PAUSE.0);
        for failed in [6, 100, u32::MAX] {
            channel.failed = failed;
            assert_eq!(channel.pause(), PAUSE.1);
        }
    }
}
