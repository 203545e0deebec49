//! When each step of the boot was done, told in one line at its end.

use std::cell::RefCell;
use std::time::Duration;

use super::span::uptime;
use super::{emit, Level, Record};

thread_local! {
    static STAMPS: RefCell<Vec<(&'static str, Duration)>> = const { RefCell::new(Vec::new()) };
}

/// Notes that a step is done. The first one is the process's own start, the origin of the others.
pub fn stamp(step: &'static str) {
    STAMPS.with_borrow_mut(|stamps| stamps.push((step, uptime())));
}

/// Logs `boot: …` once: microseconds from the first stamp to each later one, and the machine's
/// uptime at the first. Later calls say nothing.
pub fn report() {
    let stamps = STAMPS.take();
    if let Some(record) = line(&stamps) {
        emit(record);
    }
}

fn line(stamps: &[(&'static str, Duration)]) -> Option<Record> {
    let (&(_, start), rest) = stamps.split_first()?;
    let steps: Vec<(&str, u64)> = rest
        .iter()
        .map(|(step, at)| (*step, micros(at.saturating_sub(start))))
        .collect();
    let told: Vec<String> = steps.iter().map(|(s, us)| format!("{s} {us} us")).collect();
    let message = format!("boot: {}", told.join(", "));
    let mut record = Record::new(Level::Info, message);
    record.field("uptime_us", micros(start));
    for (step, us) in steps {
        record.field(&format!("{step}_us"), us);
    }
    Some(record)
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_count_from_the_first() {
        let at = Duration::from_micros;
        let record = line(&[("main", at(500)), ("mounts", at(720)), ("log", at(900))])
            .expect("there are stamps");
        assert_eq!(record.message, "boot: mounts 220 us, log 400 us");
        assert_eq!(record.fields[0], ("uptime_us".into(), 500.into()));
        assert_eq!(record.fields[2], ("log_us".into(), 400.into()));
        assert_eq!(line(&[]), None);
    }
}
