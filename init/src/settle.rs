//! Waits for the machine before there is a loop: try, pause, try again, until a deadline. Time is a
//! parameter, so tests take none.

use std::ops::ControlFlow;

use embedded_hal::delay::DelayNs;

/// Calls `attempt` until it breaks, with pauses of `pause_us` in between that add up to at most
/// `limit_us`. Returns the value of the last attempt: the `Break` value, or the `Continue` value
/// when the time was over.
///
/// The attempts' own time does not count; they must not block.
pub fn until<T, W>(
    delay: &mut impl DelayNs,
    pause_us: u32,
    limit_us: u64,
    mut attempt: impl FnMut() -> ControlFlow<T, W>,
) -> Result<T, W> {
    let mut waited = 0;
    loop {
        match attempt() {
            ControlFlow::Break(done) => return Ok(done),
            ControlFlow::Continue(why) if waited >= limit_us => return Err(why),
            ControlFlow::Continue(_) => {}
        }
        delay.delay_us(pause_us);
        waited += u64::from(pause_us.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Clock {
        ns: u64,
    }

    impl DelayNs for Clock {
        fn delay_ns(&mut self, ns: u32) {
            self.ns += u64::from(ns);
        }
    }

    #[test]
    fn ready_at_once_costs_no_time() {
        let mut clock = Clock::default();
        let got = until(&mut clock, 1000, 10_000, || ControlFlow::<_, ()>::Break(7));
        assert_eq!((got, clock.ns), (Ok(7), 0));
    }

    #[test]
    fn ready_later_is_seen_after_that_many_pauses() {
        let (mut clock, mut tries) = (Clock::default(), 0);
        let got = until(&mut clock, 1000, 10_000, || {
            tries += 1;
            if tries == 4 {
                ControlFlow::Break(tries)
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!((got, clock.ns), (Ok(4), 3_000_000));
    }

    #[test]
    fn never_ready_ends_at_the_limit_with_the_reason() {
        let (mut clock, mut tries) = (Clock::default(), 0);
        let got = until(&mut clock, 3000, 10_000, || {
            tries += 1;
            ControlFlow::<(), _>::Continue(tries)
        });
        assert_eq!((got, clock.ns), (Err(5), 12_000_000));
    }
}
