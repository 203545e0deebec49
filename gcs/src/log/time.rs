//! The two times of a record: the wall clock and the machine's uptime. The wall clock is text by
//! RFC 3339 in UTC with nanoseconds, the only form that the host's log reader takes (protocol
//! 10.4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{clock_gettime, ClockId};

/// Time since the machine's start, including the time that it was suspended.
pub fn uptime() -> Duration {
    // Every kernel with epoll has this clock.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// `2026-01-02T03:04:05.000000006Z`. Times before 1970 and after 9999 are clamped: four-digit
/// years are all that RFC 3339 can say, and a guest's clock may start anywhere.
pub fn rfc3339(time: SystemTime) -> String {
    const LAST: Duration = Duration::new(253_402_300_799, 999_999_999);
    let since = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .min(LAST);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // By hand, because every record has one and `format!` with widths is costly.
    let mut text = String::with_capacity("2026-01-02T03:04:05.000000006Z".len());
    for (number, width, end) in [
        (year, 4, '-'),
        (month, 2, '-'),
        (day, 2, 'T'),
        (hour, 2, ':'),
        (minute, 2, ':'),
        (second, 2, '.'),
        (since.subsec_nanos().into(), 9, 'Z'),
    ] {
        let mut unit = 10_u64.pow(width);
        while unit > 1 {
            unit /= 10;
            let digit = (number / unit % 10) as u8;
            text.push(char::from(b'0' + digit));
        }
        text.push(end);
    }
    text
}

/// Days since 1970-01-01 to year, month, day. Counts in 400-year eras of years that begin in
/// March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        for (seconds, nanos, want) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 1, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000000Z"),
            (1_709_164_800, 5_000_000, "2024-02-29T00:00:00.005000000Z"),
            (1_735_689_599, 999_999_999, "2024-12-31T23:59:59.999999999Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
            (999_999_999_999, 0, "9999-12-31T23:59:59.999999999Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            assert_eq!(rfc3339(time), want);
        }
        assert!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)).starts_with("1970-01-01T00:00:00"));
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = (1969, 12, 31);
        for days in 0..200_000 {
            let (year, month, day) = civil(days);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let ok = if day > 1 {
                (last.0, last.1, last.2 + 1) == (year, month, day)
            } else if month > 1 {
                (last.0, last.1 + 1) == (year, month)
            } else {
                (last.0 + 1, last.1) == (year, 12)
            };
            assert!(ok, "{last:?} then {:?}", (year, month, day));
            assert!(month != 2 || day <= 28 + u64::from(leap));
            last = (year, month, day);
        }
    }
}
