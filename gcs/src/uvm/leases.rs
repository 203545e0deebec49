//! The DHCP leases of containers. A lease is renewed while its container lives. When it ends, the
//! address is given up and a new one asked for.
//!
//! Each lease has at most one task, which enters the network namespace of the container. A lease
//! ends with the container's init: until init is reaped, no other process can have its pid.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::pending::WorkKey;
use super::Uvm;
use crate::error::Failure;
use crate::net::lease::tenancy::{tend, LeaseAct, Tenancy};

/// Longer than the exchanges of one attempt may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Names a lease for its lifetime; never repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey(u64);

#[derive(Debug)]
struct KeptLease {
    container: String,
    /// The container's init, in whose network namespace the adapter is.
    init: i32,
    tenancy: Tenancy,
    /// When the lease was granted, or lost.
    since: Instant,
    /// Attempts that have failed since then.
    failed: u32,
    /// The deadline of the next attempt.
    timer: Option<WorkKey>,
}

/// The leases that no task is at work on. Each has a deadline for its next attempt.
#[derive(Debug, Default)]
pub struct Leases {
    kept: BTreeMap<LeaseKey, KeptLease>,
    next_key: u64,
}

impl Leases {
    /// Removes the leases of a container. Returns the deadlines to cancel.
    fn end(&mut self, container: &str) -> Vec<WorkKey> {
        let mut timers = Vec::new();
        self.kept.retain(|_, kept| {
            let stays = kept.container != container;
            timers.extend(kept.timer.filter(|_| !stays));
            stays
        });
        timers
    }

    /// One line for each, for the state dump.
    pub fn describe(&self) -> Vec<String> {
        let line = |kept: &KeptLease| {
            let address = kept.tenancy.lease.as_ref();
            let address = address.map_or("none".into(), |lease| lease.address.to_string());
            let (container, interface) = (&kept.container, &kept.tenancy.interface);
            format!("{container} {interface} {address} failed={}", kept.failed)
        };
        self.kept.values().map(line).collect()
    }
}

impl Uvm {
    /// A server has just lent an address to an adapter of the container.
    pub(super) fn keep_lease(&mut self, container: &str, init: i32, tenancy: Tenancy) {
        self.leases.next_key += 1;
        let key = LeaseKey(self.leases.next_key);
        let kept = KeptLease {
            container: container.to_owned(),
            init,
            tenancy,
            since: Instant::now(),
            failed: 0,
            timer: None,
        };
        self.lease_wait(key, kept);
    }

    fn lease_wait(&mut self, key: LeaseKey, mut kept: KeptLease) {
        let next = kept.tenancy.next(kept.since, kept.failed, Instant::now());
        if let Some((at, act)) = next {
            kept.timer = Some(self.lease_try(key, at, act));
            self.leases.kept.insert(key, kept);
        }
    }

    fn lease_try(&mut self, key: LeaseKey, at: Instant, act: LeaseAct) -> WorkKey {
        let label = format!("{act:?} for a lent address");
        self.at(at, label, move |uvm| uvm.lease_due(key, act))
    }

    /// The container's init has ended. The kernel returns its adapters to the VM without addresses.
    pub(super) fn end_leases(&mut self, container: &str) {
        for timer in self.leases.end(container) {
            self.cancel(timer);
        }
    }

    /// Time has passed that the deadlines did not count. Every lease is renewed at once, because it
    /// may have ended. When only the clock was wrong, that does no harm.
    pub(super) fn leases_hurry(&mut self) {
        let lent = self.leases.kept.iter_mut();
        let lent = lent.filter(|(_, kept)| kept.tenancy.lease.is_some());
        let lent: Vec<_> = lent.map(|(key, kept)| (*key, kept.timer.take())).collect();
        for (key, timer) in lent {
            if let Some(timer) = timer {
                self.cancel(timer);
            }
            let timer = self.lease_try(key, Instant::now(), LeaseAct::Renew);
            if let Some(kept) = self.leases.kept.get_mut(&key) {
                kept.timer = Some(timer);
            }
        }
    }

    fn lease_due(&mut self, key: LeaseKey, act: LeaseAct) {
        let Some(kept) = self.leases.kept.remove(&key) else {
            return;
        };
        if !self.is_inhabited(&kept) {
            return;
        }
        let (init, tenancy) = (kept.init, kept.tenancy.clone());
        let doing = format!(
            "{act:?} for the address of {} in container {:?}",
            tenancy.interface, kept.container
        );
        let asked = Instant::now();
        self.run(
            doing.clone(),
            LIMIT,
            move || tend(init, &tenancy, act),
            move |uvm, tended| {
                // The container may have ended meanwhile, which the failure then only repeats.
                if uvm.is_inhabited(&kept) {
                    let kept = judge(kept, asked, &doing, tended);
                    uvm.lease_wait(key, kept);
                }
            },
        );
    }

    /// Whether the container's init is still the one whose network namespace it is.
    fn is_inhabited(&self, kept: &KeptLease) -> bool {
        let container = self.containers.get(&kept.container);
        container.is_some_and(|container| !container.has_exited())
            && self.namespaces.init_of(&kept.container) == Some(kept.init)
    }
}

/// The state after an attempt; it is logged.
fn judge(
    kept: KeptLease,
    asked: Instant,
    doing: &str,
    tended: Result<Tenancy, Failure>,
) -> KeptLease {
    match tended {
        Ok(tenancy) => {
            match (&kept.tenancy.lease, &tenancy.lease) {
                (Some(before), Some(now)) if before.address == now.address => {
                    log::debug!("{doing}: {} is prolonged", now.address);
                }
                (_, Some(now)) => log::info!("{doing}: the address is {} now", now.address),
                (Some(before), None) => log::warn!(
                    "{doing}: the lease of {} is over, and nobody gives another: the adapter has \
                     no address",
                    before.address
                ),
                (None, None) => {}
            }
            KeptLease {
                tenancy,
                since: asked,
                failed: 0,
                ..kept
            }
        }
        Err(failure) => {
            // Once, not at every try.
            if kept.failed == 0 {
                log::warn!("{failure}; it is tried again");
            }
            KeptLease {
                failed: kept.failed.saturating_add(1),
                ..kept
            }
        }
    }
}
