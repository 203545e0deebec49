//! The discipline against a clock that is only numbers.

use proptest::prelude::*;

use super::*;

/// In 2027.
const NOW: i64 = 1_800_000_000 * SECOND;
const YEAR: i64 = 365 * 24 * 3600 * SECOND;
const MILLI: i64 = 1_000_000;

/// A look in which the host's clock is this much ahead, and that took no time.
fn ahead(host: i64, offset: i64) -> Result<Sample, Fault> {
    let ours = host - offset;
    Sample::new((host / SECOND, host % SECOND), ours, ours)
}

#[test]
fn near_is_made_up_for_slowly_and_far_at_once() {
    let slew = |micros| Some(Correction::Slew { micros });
    let step = |nanos| Some(Correction::Step { nanos });
    for (offset, expected) in [
        (0, None),
        (1_000, slew(1)),
        (-99_999_999, slew(-99_999)),
        (100_000_000, slew(100_000)),
        (100_000_001, step(100_000_001)),
        (-100_000_001, step(-100_000_001)),
        (YEAR, step(YEAR)),
        (-YEAR, step(-YEAR)),
        // A machine that woke up in 1970.
        (NOW, step(NOW)),
    ] {
        let verdict = Discipline::default().take(ahead(NOW, offset));
        let expected = Verdict {
            correction: expected,
            news: None,
            pause: EVERY,
        };
        assert_eq!(verdict, expected, "{offset} ns");
    }
}

#[test]
fn a_look_that_took_long_is_trusted_as_far_as_it_goes() {
    let look = |before: i64, after: i64| {
        let look = Sample::new((NOW / SECOND, 0), NOW + before, NOW + after);
        Discipline::default().take(look).correction
    };
    // The host's clock was ours at some moment of the look.
    assert_eq!(look(-3 * SECOND, 2 * SECOND), None);
    // Off by 50 to 150 ms: perhaps near, so slowly, by the middle.
    let slew = Correction::Slew { micros: 100_000 };
    assert_eq!(look(-150 * MILLI, -50 * MILLI), Some(slew));
    let step = Correction::Step {
        nanos: -1_000 * MILLI,
    };
    assert_eq!(look(900 * MILLI, 1_100 * MILLI), Some(step));
}

#[test]
fn what_no_clock_shows_is_nonsense() {
    for (seconds, nanos) in [
        (0, 0),
        (-1, 0),
        (i64::MIN, i64::MIN),
        (i64::MAX, i64::MAX),
        (SANE.start - 1, 0),
        (SANE.end, 0),
        (NOW / SECOND, SECOND),
        (NOW / SECOND, -1),
    ] {
        let look = Sample::new((seconds, nanos), NOW, NOW);
        assert_eq!(look, Err(Fault::Nonsense), "{seconds} {nanos}");
    }
    for ours in [i64::MIN, 0, i64::MAX] {
        let look = Sample::new((NOW / SECOND, 0), ours, ours);
        let correction = Discipline::default().take(look).correction;
        assert!(matches!(correction, Some(Correction::Step { .. })));
    }
}

/// News of a look, in words.
fn news(discipline: &mut Discipline, look: Result<Sample, Fault>) -> String {
    let verdict = discipline.take(look);
    match verdict.news {
        Some(News::Trouble(fault)) => fault.to_string(),
        Some(News::Well) => "well".into(),
        None => String::new(),
    }
}

#[test]
fn trouble_is_told_when_it_begins_when_it_changes_and_when_it_ends() {
    let mut discipline = Discipline::default();
    let gone = || Err(Fault::Gone("unplugged".into()));
    let still = "the host's clock stands still";
    let nonsense = "the host's clock shows no time that can be";
    for (row, (look, expected)) in [
        (ahead(NOW, 0), ""),
        (ahead(NOW, 0), still),
        (ahead(NOW, 5), ""),
        (gone(), "unplugged"),
        (gone(), ""),
        (Err(Fault::Nonsense), nonsense),
        (ahead(NOW, 0), still),
        (ahead(NOW + 1, 0), "well"),
        (ahead(NOW + 2, 0), ""),
        (gone(), "unplugged"),
        (ahead(NOW + 3, 0), "well"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(news(&mut discipline, look), expected, "row {row}");
    }
}

#[test]
fn the_first_look_after_a_pause_is_acted_on() {
    let mut discipline = Discipline::default();
    for turn in 0..5 {
        let look = ahead(NOW + turn * 2 * SECOND, 1_000);
        assert!(matches!(
            discipline.take(look).correction,
            Some(Correction::Slew { .. })
        ));
    }
    // Paused for an hour, of which this machine knows nothing.
    let verdict = discipline.take(ahead(NOW + 3600 * SECOND, 3590 * SECOND));
    let nanos = 3590 * SECOND;
    assert_eq!(verdict.correction, Some(Correction::Step { nanos }));
    assert_eq!((verdict.news, verdict.pause), (None, EVERY));
}

/// What happens between two looks, or at one.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// Good looks, our clock running fast or slow by so many parts in a million.
    Runs(u8, i64),
    /// The machine knows nothing of so many seconds.
    Paused(i64),
    /// Somebody sets the host's clock, by seconds.
    HostSet(i64),
    Stalls,
    Vanishes,
    Raves,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..20_u8, -200..200_i64).prop_map(|(looks, drift)| Event::Runs(looks, drift)),
        1 => (1..1_000_000_i64).prop_map(Event::Paused),
        // Never to where it stood at the look before.
        1 => (1_000..40_000_000_i64).prop_map(Event::HostSet),
        1 => (1_000..40_000_000_i64).prop_map(|back| Event::HostSet(-back)),
        1 => Just(Event::Stalls),
        1 => Just(Event::Vanishes),
        1 => Just(Event::Raves),
    ];
    prop::collection::vec(event, 1..20)
}

/// Two clocks, and what the discipline did to ours.
struct Machine {
    host: i64,
    ours: i64,
    /// What is left of the current correction.
    slewing: i64,
    discipline: Discipline,
    steps: u32,
    troubled: bool,
}

impl Machine {
    fn pass(&mut self, time: Duration, drift: i64) {
        let nanos = i64::try_from(time.as_nanos()).unwrap();
        self.host += nanos;
        // adjtime(3) makes up for 500 µs in a second.
        let most = nanos / 2_000;
        let slewed = self.slewing.clamp(-most, most);
        self.slewing -= slewed;
        self.ours += nanos + nanos * drift / 1_000_000 + slewed;
    }

    fn look(&mut self, look: Result<Sample, Fault>) -> Duration {
        let good = look.is_ok();
        let verdict = self.discipline.take(look);
        match verdict.correction {
            Some(Correction::Step { nanos }) => {
                assert!(nanos.unsigned_abs() > STEP);
                self.ours += nanos;
                self.slewing = 0;
                self.steps += 1;
            }
            Some(Correction::Slew { micros }) => {
                assert!(micros.unsigned_abs() * 1000 <= STEP);
                self.slewing = micros * 1000;
            }
            None => {}
        }
        assert!(good || verdict.correction.is_none());
        match verdict.news {
            Some(News::Well) => assert!(std::mem::take(&mut self.troubled)),
            Some(News::Trouble(_)) => self.troubled = true,
            None => assert_eq!(self.troubled, !good, "news that was not told"),
        }
        assert!(verdict.pause >= EVERY && verdict.pause <= RAREST);
        verdict.pause
    }

    fn good(&mut self) -> Result<Sample, Fault> {
        Sample::new(
            (self.host / SECOND, self.host % SECOND),
            self.ours,
            self.ours,
        )
    }
}

proptest! {
    #[test]
    fn after_each_good_look_the_clocks_are_close_and_all_is_told(events in events()) {
        let mut machine = Machine {
            host: NOW,
            ours: NOW,
            slewing: 0,
            discipline: Discipline::default(),
            steps: 0,
            troubled: false,
        };
        let mut pause = EVERY;
        let mut far = 0;
        for event in events {
            let mut looks = 1;
            let mut drift = 0;
            match event {
                Event::Runs(count, by) => (looks, drift) = (count, by),
                Event::Paused(seconds) => machine.host += seconds * SECOND,
                Event::HostSet(seconds) => machine.host += seconds * SECOND,
                Event::Stalls | Event::Vanishes | Event::Raves => {}
            }
            for _ in 0..looks {
                machine.pass(pause, drift);
                pause = match event {
                    Event::Vanishes => machine.look(Err(Fault::Gone("gone".into()))),
                    Event::Raves => machine.look(Sample::new((0, 0), machine.ours, machine.ours)),
                    Event::Stalls => {
                        let look = machine.good();
                        machine.look(look.clone());
                        machine.look(look)
                    }
                    _ => {
                        let off = machine.host - machine.ours;
                        far += u32::from(off.unsigned_abs() > STEP);
                        let steps = machine.steps;
                        let look = machine.good();
                        let pause = machine.look(look);
                        // At once, and never more than it takes.
                        let stepped = machine.steps - steps;
                        prop_assert_eq!(stepped, u32::from(off.unsigned_abs() > STEP));
                        let left = machine.host - machine.ours;
                        prop_assert!(left.unsigned_abs() <= STEP);
                        prop_assert!((left - machine.slewing).abs() < 1_000);
                        pause
                    }
                };
            }
        }
        prop_assert!(machine.steps >= far);
    }
}
