//! An address that a DHCP server has lent: when to ask for more time, and what to do in the
//! container's network namespace. The plan is pure; the rest is for a task.
//!
//! ```text
//! granted ── T1 ─→ Renew ── T2 ─→ Rebind ── end ─→ Ask: the address goes, another is asked for
//!    ↑               └──────────────┴── answered ──┐    └── nobody gives one: Ask, ever more rarely
//!    └─────────────────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{setns, CloneFlags};
use serde::{Deserialize, Serialize};

use super::client;
use super::message::{Lease, Term};
use crate::error::Failure;
use crate::net::assign::{apply, change, namespace};
use crate::net::netlink::Netlink;
use crate::net::plan::{addressing, NetworkStep};

/// Tries to prolong a lease are no closer than that, unless it ends sooner (RFC 2131, 4.4.5).
const CLOSEST: Duration = Duration::from_secs(60);
/// After so long, and then twice as long each time, a lost address is asked for again.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// An adapter with a lent address, inside its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenancy {
    pub interface: String,
    pub mac: [u8; 6],
    /// The policy routing table when it has the low metric.
    pub table: Option<u32>,
    /// None: it ended, and the adapter has no address.
    pub lease: Option<Lease>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAct {
    /// Its server is asked to prolong the lease.
    Renew,
    /// Any server is.
    Rebind,
    /// The lease is over, or there is none: the address goes, and another is asked for.
    Ask,
}

impl Tenancy {
    /// What is to be done next, and when. `since`: when the lease was granted, or lost; `failed`:
    /// tries without a lease since. None: the lease lasts for ever.
    pub fn next(&self, since: Instant, failed: u32, now: Instant) -> Option<(Instant, LeaseAct)> {
        let pause = FIRST_PAUSE * (1 << failed.saturating_sub(1).min(7));
        let later = (now + pause.min(LONGEST_PAUSE), LeaseAct::Ask);
        let Some(lease) = &self.lease else {
            return Some(later);
        };
        let next = prolonging(lease.term?, since, now);
        // It is over, and was not even given up: what failed would fail again.
        Some(if next.0 <= now && failed > 0 {
            later
        } else {
            next
        })
    }

    fn steps(&self) -> Vec<NetworkStep> {
        let steps = |lease: &Lease| addressing(&[lease.address], &lease.routes, self.table);
        self.lease.as_ref().map(steps).unwrap_or_default()
    }
}

fn prolonging(term: Term, since: Instant, now: Instant) -> (Instant, LeaseAct) {
    let [renew, rebind, end] = [term.renew, term.rebind, term.end].map(|after| since + after);
    // Half of the time that is left, so that the last tries are not all at the end.
    let again = |limit: Instant| {
        let half = (limit - now) / 2;
        (half >= CLOSEST).then_some(now + half)
    };
    if now < renew {
        (renew, LeaseAct::Renew)
    } else if now < rebind {
        again(rebind).map_or((rebind, LeaseAct::Rebind), |at| (at, LeaseAct::Renew))
    } else if now < end {
        again(end).map_or((end, LeaseAct::Ask), |at| (at, LeaseAct::Rebind))
    } else {
        (now, LeaseAct::Ask)
    }
}

/// Enters the network namespace of process `pid` and does it. Blocks, and leaves the process in
/// the other namespace. Gives what there is now: with the lease that was granted, or without.
///
/// # Errors
/// Nobody answered, and all is as it was.
pub fn tend(pid: i32, tenancy: &Tenancy, act: LeaseAct) -> Result<Tenancy, Failure> {
    let there = namespace(&format!("/proc/{pid}/ns/net"), "of the container")?;
    setns(&there, CloneFlags::CLONE_NEWNET).map_err(|error| {
        Failure::unspecified(format!("entering the network namespace of {pid}: {error}"))
    })?;
    let mut inside = Netlink::open()
        .map_err(|error| Failure::unspecified(format!("rtnetlink in the container: {error}")))?;
    let name = &tenancy.interface;
    let index = if_nametoindex(name.as_str())
        .map_err(|error| Failure::unspecified(format!("{name} is gone: {error}")))?;
    let silent = |error: std::io::Error| Failure::unspecified(format!("DHCP on {name}: {error}"));
    let granted = match (&tenancy.lease, act) {
        (Some(lease), LeaseAct::Renew | LeaseAct::Rebind) => {
            let any = act == LeaseAct::Rebind;
            client::prolong(name, tenancy.mac, lease, any).map_err(silent)?
        }
        _ => None,
    };
    let lease_of = |lease: Option<Lease>| Tenancy {
        lease,
        ..tenancy.clone()
    };
    let mut now = lease_of(granted);
    if now.steps() == tenancy.steps() && now.lease.is_some() {
        return Ok(now);
    }
    // Refused, over, or another one: the old address must not be used any more.
    for step in tenancy.steps().iter().rev() {
        let Some((request, what)) = change(index, step) else {
            continue;
        };
        match inside.undo(request) {
            // Routes go with their address, and the container may have changed anything.
            Ok(()) | Err(Errno::EADDRNOTAVAIL | Errno::ENOENT | Errno::ESRCH) => {}
            Err(error) => log::warn!("{name}: taking away {what}: {error}"),
        }
    }
    if now.lease.is_none() {
        match client::lease(name, tenancy.mac, Instant::now() + client::LIMIT) {
            Ok(lease) => now = lease_of(Some(lease)),
            Err(error) if tenancy.lease.is_none() => return Err(silent(error)),
            // That the address went is the news; the rest is for the next try.
            Err(_) => return Ok(now),
        }
    }
    let mut one_table = false;
    for step in now.steps() {
        apply(&mut inside, index, &step, &mut one_table)
            .map_err(|failure| failure.during(format!("network of process {pid}, {name}")))?;
    }
    Ok(now)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::net::settings::Prefix;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn tenancy(term: Option<[u64; 3]>) -> Tenancy {
        let term = term.map(|[renew, rebind, end]| Term {
            renew: seconds(renew),
            rebind: seconds(rebind),
            end: seconds(end),
        });
        Tenancy {
            interface: "eth0".into(),
            mac: [0; 6],
            table: None,
            lease: Some(Lease {
                message: Vec::new(),
                server: Ipv4Addr::LOCALHOST,
                address: Prefix::whole(Ipv4Addr::LOCALHOST.into()),
                routes: Vec::new(),
                dns_servers: Vec::new(),
                domain: String::new(),
                term,
            }),
        }
    }

    /// All that is done about a lease that nobody prolongs: seconds after it was granted.
    fn unanswered(term: [u64; 3]) -> Vec<(u64, LeaseAct)> {
        let tenancy = tenancy(Some(term));
        let since = Instant::now();
        let (mut now, mut acts) = (since, Vec::new());
        loop {
            let (at, act) = tenancy.next(since, 0, now).expect("it ends");
            assert!(at >= now, "never back in time");
            acts.push(((at - since).as_secs(), act));
            if act == LeaseAct::Ask {
                return acts;
            }
            now = at;
        }
    }

    #[test]
    fn a_short_lease_has_one_try_for_each_time() {
        let acts = [
            (4, LeaseAct::Renew),
            (7, LeaseAct::Rebind),
            (8, LeaseAct::Ask),
        ];
        assert_eq!(unanswered([4, 7, 8]), acts);
    }

    #[test]
    fn tries_come_closer_together_and_end() {
        let acts = unanswered([3600, 6300, 7200]);
        let at = |act: LeaseAct| -> Vec<u64> {
            let of = acts.iter().filter(|(_, other)| *other == act);
            of.map(|(at, _)| *at).collect()
        };
        assert_eq!(at(LeaseAct::Renew), [3600, 4950, 5625, 5962, 6131, 6215]);
        assert_eq!(at(LeaseAct::Rebind), [6300, 6750, 6975, 7087]);
        assert_eq!(at(LeaseAct::Ask), [7200]);
    }

    #[test]
    fn a_try_that_comes_late_does_what_is_due_by_then() {
        let tenancy = tenancy(Some([100, 200, 300]));
        let since = Instant::now();
        for (now, expected) in [
            (0, (100, LeaseAct::Renew)),
            (99, (100, LeaseAct::Renew)),
            (150, (200, LeaseAct::Rebind)),
            (250, (300, LeaseAct::Ask)),
            (300, (300, LeaseAct::Ask)),
            (5000, (5000, LeaseAct::Ask)),
        ] {
            let next = tenancy.next(since, 0, since + seconds(now));
            let next = next.map(|(at, act)| ((at - since).as_secs(), act));
            assert_eq!(next, Some(expected), "{now}");
        }
    }

    #[test]
    fn what_cannot_be_given_up_keeps_nobody_busy() {
        let tenancy = tenancy(Some([100, 200, 300]));
        let since = Instant::now();
        for (now, failed, expected) in [
            (250, 3, (300, LeaseAct::Ask)),
            (300, 0, (300, LeaseAct::Ask)),
            (300, 1, (305, LeaseAct::Ask)),
            (305, 2, (315, LeaseAct::Ask)),
            (9000, 50, (9600, LeaseAct::Ask)),
        ] {
            let next = tenancy.next(since, failed, since + seconds(now));
            let next = next.map(|(at, act)| ((at - since).as_secs(), act));
            assert_eq!(next, Some(expected), "{now} {failed}");
        }
    }

    #[test]
    fn for_ever_is_left_alone_and_a_lost_address_asked_for_ever_more_rarely() {
        let now = Instant::now();
        assert_eq!(tenancy(None).next(now, 0, now), None);
        let mut lost = tenancy(None);
        lost.lease = None;
        let pauses: Vec<u64> = [0, 1, 2, 3, 7, 8, 99]
            .into_iter()
            .map(|failed| match lost.next(now, failed, now) {
                Some((at, LeaseAct::Ask)) => (at - now).as_secs(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pauses, [5, 5, 10, 20, 320, 600, 600]);
    }
}
