//! Faults for tests: what a device does wrong on purpose, and to which connections.

/// Which way bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the guest writes.
    GuestToHost,
    /// What the guest reads.
    HostToGuest,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answer the guest's connect with a reset (or the client's `CONNECT` with a close).
    Refuse,
    /// Leave the guest's connect unanswered; it times out.
    Ignore,
    /// Close the Unix socket and end the connection in order.
    Drop {
        /// Which bytes are counted.
        direction: Direction,
        /// So many pass before.
        bytes: u64,
    },
    /// Reset the connection towards the guest, and close the Unix socket.
    Reset {
        /// Which bytes are counted.
        direction: Direction,
        /// So many pass before.
        bytes: u64,
    },
    /// Move nothing more in the direction, and close nothing.
    Stall {
        /// Which bytes are counted, and stopped.
        direction: Direction,
        /// So many pass before.
        bytes: u64,
    },
    /// Move little per read and write of the Unix socket.
    Short {
        /// At most so many, at least one.
        bytes: usize,
    },
}

/// Faults per port: the port dialled, on the host for guest-initiated connections and in the
/// guest for host-initiated ones. The default has none. Applies to connections made later.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    rules: Vec<(u32, Fault)>,
}

impl Faults {
    /// Adds a fault to connections to `port`.
    pub fn on_port(mut self, port: u32, fault: Fault) -> Faults {
        self.rules.push((port, fault));
        self
    }

    /// Whether connections to `port` are refused.
    pub fn refuses(&self, port: u32) -> bool {
        self.rules.contains(&(port, Fault::Refuse))
    }

    pub(crate) fn ignores(&self, port: u32) -> bool {
        self.rules.contains(&(port, Fault::Ignore))
    }

    pub(crate) fn plan(&self, port: u32) -> Plan {
        let rules = self.rules.iter().filter(|(p, _)| *p == port);
        let mut plan = Plan::default();
        for (_, fault) in rules {
            let (limit, direction) = match *fault {
                Fault::Refuse | Fault::Ignore => continue,
                Fault::Short { bytes } => {
                    plan.short = Some(bytes.max(1));
                    continue;
                }
                Fault::Drop { direction, bytes } => (Limit::new(bytes, Action::Drop), direction),
                Fault::Reset { direction, bytes } => (Limit::new(bytes, Action::Reset), direction),
                Fault::Stall { direction, bytes } => (Limit::new(bytes, Action::Stall), direction),
            };
            match direction {
                Direction::GuestToHost => plan.to_host = Some(limit),
                Direction::HostToGuest => plan.to_guest = Some(limit),
            }
        }
        plan
    }
}

/// What to do when a limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Drop,
    Reset,
    Stall,
}

/// Bytes that may still pass before `action`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    left: u64,
    action: Action,
}

impl Limit {
    fn new(left: u64, action: Action) -> Limit {
        Limit { left, action }
    }
}

/// The faults of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    to_host: Option<Limit>,
    to_guest: Option<Limit>,
    short: Option<usize>,
}

impl Plan {
    fn limit(&self, direction: Direction) -> Option<&Limit> {
        match direction {
            Direction::GuestToHost => self.to_host.as_ref(),
            Direction::HostToGuest => self.to_guest.as_ref(),
        }
    }

    /// How many of `want` bytes may be moved now.
    pub fn cap(&self, direction: Direction, want: usize) -> usize {
        let want = self.short.map_or(want, |short| want.min(short));
        self.limit(direction).map_or(want, |limit| {
            want.min(usize::try_from(limit.left).unwrap_or(usize::MAX))
        })
    }

    /// Counts moved bytes.
    pub fn moved(&mut self, direction: Direction, n: usize) {
        let limit = match direction {
            Direction::GuestToHost => self.to_host.as_mut(),
            Direction::HostToGuest => self.to_guest.as_mut(),
        };
        if let Some(limit) = limit {
            limit.left = limit.left.saturating_sub(n as u64);
        }
    }

    /// The action due in `direction`, once its bytes have passed.
    pub fn due(&self, direction: Direction) -> Option<Action> {
        let limit = self.limit(direction)?;
        (limit.left == 0).then_some(limit.action)
    }
}
