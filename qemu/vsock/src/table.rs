//! Who is connected: streams by an id that never repeats, connections also by their ports.
//!
//! An epoll event carries the id, so a late event of a closed stream finds nothing instead of
//! the next stream with the same descriptor. A connection loses its ports (`release`) before
//! its id when the guest let go of it but the host side still has bytes to read; the guest may
//! then use the same ports again at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::net::UnixStream;

use crate::connection::Connection;
use crate::listener::Hello;
use crate::packet::Key;
use crate::stream::Interest;

/// Streams at once, in all states; more are refused.
pub const MAX_STREAMS: usize = 4096;
/// Ids below this are the muxer's own.
pub const FIRST_ID: u64 = 16;
/// First host port given to a client that connects into the guest.
const FIRST_PORT: u32 = 1 << 30;

/// What a stream is at the moment.
pub enum State {
    /// A client that has not sent its whole `CONNECT` line.
    Hello(Hello),
    Live(Connection<UnixStream>),
}

/// A stream and its bookkeeping.
pub struct Entry {
    pub state: State,
    /// What epoll watches now; `None` when it is not registered.
    pub watched: Option<Interest>,
    queued: bool,
    touched: bool,
}

/// All streams of a device.
pub struct Table {
    entries: HashMap<u64, Entry>,
    keys: HashMap<Key, u64>,
    /// Connections that are over here and for which the guest has not sent RST yet. An answer to
    /// what it sends until then would reach the next connection of the same ports.
    closing: HashSet<Key>,
    next_id: u64,
    next_port: u32,
    /// Connections that may have a packet for the guest, served in turn.
    senders: VecDeque<u64>,
    /// Streams whose epoll interest may have changed.
    touched: Vec<u64>,
}

impl Table {
    pub fn new() -> Table {
        Table {
            entries: HashMap::new(),
            keys: HashMap::new(),
            closing: HashSet::new(),
            next_id: FIRST_ID,
            next_port: FIRST_PORT,
            senders: VecDeque::new(),
            touched: Vec::new(),
        }
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= MAX_STREAMS
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a stream and gives its id.
    pub fn insert(&mut self, state: State) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if let State::Live(connection) = &state {
            self.keys.insert(connection.key(), id);
        }
        self.entries.insert(
            id,
            Entry {
                state,
                watched: None,
                queued: false,
                touched: false,
            },
        );
        self.touch(id);
        id
    }

    pub fn get(&mut self, id: u64) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// The connection that `id` names, if it is one.
    pub fn live(&mut self, id: u64) -> Option<&mut Connection<UnixStream>> {
        match &mut self.entries.get_mut(&id)?.state {
            State::Live(connection) => Some(connection),
            State::Hello(_) => None,
        }
    }

    pub fn find(&self, key: Key) -> Option<u64> {
        self.keys.get(&key).copied()
    }

    /// A host port no connection to `guest_port` uses.
    pub fn free_key(&mut self, guest_port: u32) -> Key {
        loop {
            let key = Key {
                host_port: self.next_port,
                guest_port,
            };
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.keys.contains_key(&key) && !self.closing.contains(&key) {
                return key;
            }
        }
    }

    /// Turns a client's stream into a connection under the same id.
    pub fn promote(&mut self, id: u64, make: impl FnOnce(UnixStream) -> Connection<UnixStream>) {
        if let Some(mut entry) = self.entries.remove(&id) {
            if let State::Hello(hello) = entry.state {
                let connection = make(hello.into_stream());
                self.keys.insert(connection.key(), id);
                entry.state = State::Live(connection);
                self.entries.insert(id, entry);
            }
        }
    }

    /// Frees the ports of `id`; its stream stays.
    pub fn release(&mut self, id: u64) {
        if let Some(key) = self.live(id).map(|connection| connection.key()) {
            if self.keys.get(&key) == Some(&id) {
                self.keys.remove(&key);
            }
        }
    }

    /// Notes that only the guest's RST is missing. Bounded: a guest that never closes its sockets
    /// gets RSTs instead.
    pub fn expect_reset(&mut self, key: Key) {
        if self.closing.len() < MAX_STREAMS {
            self.closing.insert(key);
        }
    }

    pub fn expects_reset(&self, key: Key) -> bool {
        self.closing.contains(&key)
    }

    pub fn got_reset(&mut self, key: Key) {
        self.closing.remove(&key);
    }

    /// Nothing more is expected: the guest was reset.
    pub fn expect_nothing(&mut self) {
        self.closing.clear();
    }

    /// Forgets a stream; dropping the entry closes it and takes it out of epoll.
    pub fn remove(&mut self, id: u64) -> Option<Entry> {
        self.release(id);
        self.entries.remove(&id)
    }

    /// Puts `id` at the end of the senders' queue, once.
    pub fn enqueue(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            if !entry.queued {
                entry.queued = true;
                self.senders.push_back(id);
            }
        }
    }

    /// The sender whose turn it is.
    pub fn dequeue(&mut self) -> Option<u64> {
        while let Some(id) = self.senders.pop_front() {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.queued = false;
                return Some(id);
            }
        }
        None
    }

    pub fn has_senders(&self) -> bool {
        !self.senders.is_empty()
    }

    /// Notes that the interest of `id` may have changed.
    pub fn touch(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            if !entry.touched {
                entry.touched = true;
                self.touched.push(id);
            }
        }
    }

    /// All streams touched since the last call.
    pub fn take_touched(&mut self) -> Vec<u64> {
        let touched = std::mem::take(&mut self.touched);
        for id in &touched {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.touched = false;
            }
        }
        touched
    }

    /// Every id, for the end of the device.
    pub fn ids(&self) -> Vec<u64> {
        self.entries.keys().copied().collect()
    }
}
