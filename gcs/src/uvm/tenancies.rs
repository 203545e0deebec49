//! Addresses that DHCP servers have lent to containers: prolonged while the container lives, given
//! back and asked for again when a lease ends.
//!
//! One at a time is done about each, in a task that enters the container's network namespace. It
//! ends with the container's init: while that is not reaped its number is nobody else's.

use std::time::{Duration, Instant};

use super::container::State;
use super::{Deadline, Key, Uvm};
use crate::error::Failure;
use crate::net::tenancy::{tend, Act, Tenancy};
use crate::reactor::TimerKey;

/// Over what the conversations of one try may take.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Kept {
    container: String,
    /// The container's init, in whose network namespace the adapter is.
    init: i32,
    tenancy: Tenancy,
    /// When the lease was asked for, or lost.
    since: Instant,
    /// Tries that failed, since.
    failed: u32,
    /// Of the next try.
    timer: Option<TimerKey>,
}

impl Uvm {
    /// A server has just lent an address to an adapter of the container.
    pub(super) fn keep_tenancy(&mut self, container: &str, init: i32, tenancy: Tenancy) {
        let key = self.key();
        let kept = Kept {
            container: container.to_owned(),
            init,
            tenancy,
            since: Instant::now(),
            failed: 0,
            timer: None,
        };
        self.tenancy_wait(key, kept);
    }

    fn tenancy_wait(&mut self, key: Key, mut kept: Kept) {
        let next = kept.tenancy.next(kept.since, kept.failed, Instant::now());
        if let Some((at, act)) = next {
            kept.timer = Some(self.timers.add(at, Deadline::Tenancy(key, act)));
            self.tenancies.insert(key, kept);
        }
    }

    /// The container's init has ended, and its adapters go back to the VM without addresses.
    pub(super) fn end_tenancies(&mut self, container: &str) {
        let timers = &mut self.timers;
        self.tenancies.retain(|_, kept| {
            let stays = kept.container != container;
            if let (false, Some(timer)) = (stays, kept.timer) {
                timers.cancel(timer);
            }
            stays
        });
    }

    /// Time has passed that the deadlines know nothing of: what may have ended by now is
    /// prolonged at once. If it was only the clock that was wrong, that does no harm.
    pub(super) fn tenancies_hurry(&mut self) {
        let lent = |(_, kept): &(&Key, &mut Kept)| kept.tenancy.lease.is_some();
        for (key, kept) in self.tenancies.iter_mut().filter(lent) {
            if let Some(timer) = kept.timer.take() {
                self.timers.cancel(timer);
            }
            let renew = Deadline::Tenancy(*key, Act::Renew);
            kept.timer = Some(self.timers.add(Instant::now(), renew));
        }
    }

    pub(super) fn tenancy_due(&mut self, key: Key, act: Act) {
        let Some(kept) = self.tenancies.remove(&key) else {
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
                // It may have ended meanwhile, which then is no news.
                if uvm.is_inhabited(&kept) {
                    let kept = judge(kept, asked, &doing, tended);
                    uvm.tenancy_wait(key, kept);
                }
            },
        );
    }

    /// Whether the container's init is still the one whose network namespace it is.
    fn is_inhabited(&self, kept: &Kept) -> bool {
        let container = self.containers.get(&kept.container);
        container.is_some_and(|container| container.state < State::Exited)
            && self.namespaces.init_of(&kept.container) == Some(kept.init)
    }

    /// One line for each, for the state dump.
    pub(super) fn describe_tenancies(&self) -> Vec<String> {
        let line = |kept: &Kept| {
            let address = kept.tenancy.lease.as_ref();
            let address = address.map_or("none".into(), |lease| lease.address.to_string());
            let (container, interface) = (&kept.container, &kept.tenancy.interface);
            format!("{container} {interface} {address} failed={}", kept.failed)
        };
        self.tenancies.values().map(line).collect()
    }
}

/// What there is after a try, and a word to the log.
fn judge(kept: Kept, asked: Instant, doing: &str, tended: Result<Tenancy, Failure>) -> Kept {
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
            Kept {
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
            Kept {
                failed: kept.failed.saturating_add(1),
                ..kept
            }
        }
    }
}
