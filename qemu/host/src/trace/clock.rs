//! The guest's clock in terms of the host's.
//!
//! Each request gives bounds, as in NTP: the guest cannot have read it before the host wrote it,
//! nor answered after the host had the answer. With `t0`, `t3` (the host's times: written, answer
//! read) and `t1`, `t2` (the guest's: read, answered) the offset of the guest's clock is in `[t2 -
//! t3, t1 - t0]`. The bounds of all requests together leave microseconds, of which the middle is
//! taken. Every request of the guest is then within that of the host. When bounds contradict each
//! other, the clocks have drifted apart or the VM was paused, and a new period begins.

use std::time::Duration;

/// One request on both clocks, in µs: the host's from the recorder's start, the guest's from its
/// boot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    pub sent: f64,
    pub received: f64,
    pub arrived: f64,
    pub answered: f64,
}

/// Where the offset (guest minus host) is, from this guest time on. In µs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Period {
    pub from: f64,
    pub low: f64,
    pub high: f64,
    /// The number of requests that agree.
    pub pairs: usize,
}

impl Period {
    pub fn offset(&self) -> f64 {
        f64::midpoint(self.low, self.high)
    }
}

/// Periods in the order of time; the first also stands for what was before it. None without
/// pairs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clock(pub Vec<Period>);

impl Clock {
    pub fn estimate(mut pairs: Vec<Pair>) -> Self {
        pairs.sort_by(|a, b| a.answered.total_cmp(&b.answered));
        let mut periods: Vec<Period> = Vec::new();
        for pair in pairs {
            let (low, high) = (pair.answered - pair.received, pair.arrived - pair.sent);
            if low > high {
                // Longer in the guest than here: it was not the same request, or a clock jumped.
                continue;
            }
            match periods.last_mut() {
                Some(period) if period.low.max(low) <= period.high.min(high) => {
                    period.low = period.low.max(low);
                    period.high = period.high.min(high);
                    period.pairs += 1;
                }
                _ => periods.push(Period {
                    from: pair.arrived,
                    low,
                    high,
                    pairs: 1,
                }),
            }
        }
        Self(periods)
    }

    /// A guest time in µs as host time. The end decides which period it is in.
    pub fn host(&self, start: f64, end: f64) -> Option<(f64, f64)> {
        let later = self.0.partition_point(|period| period.from <= end);
        let period = self.0.get(later.saturating_sub(1))?;
        Some((start - period.offset(), end - period.offset()))
    }
}

/// µs with a fraction.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(sent: f64, received: f64, arrived: f64, answered: f64) -> Pair {
        Pair {
            sent,
            received,
            arrived,
            answered,
        }
    }

    #[test]
    fn bounds_of_all_requests_are_kept_together() {
        // The guest's clock is 1,000 ahead; ways of 10 and 90, then of 90 and 10.
        let clock = Clock::estimate(vec![
            pair(0.0, 200.0, 1010.0, 1110.0),
            pair(300.0, 500.0, 1390.0, 1490.0),
        ]);
        let wanted = Period {
            from: 1010.0,
            low: 990.0,
            high: 1010.0,
            pairs: 2,
        };
        assert_eq!(clock.0, [wanted]);
        assert_eq!(clock.host(1010.0, 1110.0), Some((10.0, 110.0)));
        // What was before the first request.
        assert_eq!(clock.host(0.0, 500.0), Some((-1000.0, -500.0)));
        assert_eq!(Clock::default().host(0.0, 1.0), None);
    }

    #[test]
    fn a_pause_begins_a_new_period_and_nonsense_is_left_out() {
        let clock = Clock::estimate(vec![
            pair(0.0, 10.0, 104.0, 106.0),
            // Longer there than here.
            pair(20.0, 21.0, 120.0, 140.0),
            // Paused for 1,000 of our time meanwhile.
            pair(1100.0, 1110.0, 204.0, 206.0),
        ]);
        assert_eq!(clock.0.len(), 2);
        assert_eq!(clock.0[0].offset(), 98.0 + 2.0);
        assert_eq!(clock.0[1].offset(), -900.0);
        assert_eq!(clock.host(104.0, 106.0), Some((4.0, 6.0)));
        assert_eq!(clock.host(204.0, 206.0), Some((1104.0, 1106.0)));
    }

    proptest::proptest! {
        /// With a clock that does not drift, whatever the ways take.
        #[test]
        fn requests_of_the_guest_are_within_those_of_the_host(
            offset in -1e9..1e9_f64,
            requests in proptest::collection::vec([0.0..1e4_f64, 0.0..1e3, 0.0..1e6, 0.0..1e3], 1..50),
        ) {
            let mut now = 0.0;
            let pairs: Vec<Pair> = requests.into_iter().map(|[idle, way, work, back]| {
                let sent: f64 = now + idle;
                now = sent + way + work + back;
                pair(sent, now, (sent + way + offset).floor(), (sent + way + work + offset).floor())
            }).collect();
            let clock = Clock::estimate(pairs.clone());
            for pair in pairs {
                let Some((start, end)) = clock.host(pair.arrived, pair.answered) else { continue };
                // Times of the guest are cut to whole microseconds.
                proptest::prop_assert!(start >= pair.sent - 1.5, "{start} {pair:?}");
                proptest::prop_assert!(end <= pair.received + 1.5, "{end} {pair:?}");
            }
        }
    }
}
