//! PAX extended headers (pax(1)) and the values in them.

use crate::meta::{Time, Why};

/// Keys and values in order; GNU's sparse format 0.0 repeats a key.
#[derive(Debug, Default)]
pub struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// `<length> <key>=<value>\n`, the length counting itself.
    pub fn parse(mut bytes: &[u8]) -> Result<Records, Why> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let one = || {
                let blank = bytes.iter().position(|b| *b == b' ')?;
                let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
                let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
                let equals = record.iter().position(|b| *b == b'=')?;
                let (key, value) = (&record[..equals], &record[equals + 1..]);
                Some((length, key.to_vec(), value.to_vec()))
            };
            let (length, key, value) = one().ok_or("it has a malformed PAX record")?;
            all.push((key, value));
            bytes = &bytes[length..];
        }
        Ok(Records(all))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(key, value)| (&key[..], &value[..]))
    }

    /// The last value of `key`; an empty one takes the record back.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let found = self.iter().filter(|(k, _)| *k == key.as_bytes()).last();
        found
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
    }

    pub fn number(&self, key: &str) -> Result<Option<u64>, Why> {
        let unreadable = || format!("has an unreadable {key}");
        self.get(key)
            .map(|value| decimal(value).ok_or_else(unreadable))
            .transpose()
    }

    /// `seconds[.fraction]`, perhaps negative.
    pub fn time(&self, key: &str) -> Result<Option<Time>, Why> {
        let unreadable = || format!("has an unreadable {key}");
        self.get(key)
            .map(|value| time(value).ok_or_else(unreadable))
            .transpose()
    }
}

pub fn decimal(digits: &[u8]) -> Option<u64> {
    let plain = digits.iter().all(u8::is_ascii_digit);
    let digits = plain.then(|| std::str::from_utf8(digits).ok())??;
    digits.parse().ok()
}

fn time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(seconds.as_bytes())?).ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let nanos = format!("{fraction:0<9.9}").parse().ok()?;
    Some(match (negative, nanos) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time {
            seconds: -seconds,
            nanos,
        },
        (true, nanos) => Time {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_hold_any_value(value in prop::collection::vec(any::<u8>(), 1..300)) {
            let rest = " k=\n".len() + value.len();
            // The length counts its own digits.
            let length = (1..400).find(|n: &usize| n.to_string().len() + rest == *n).unwrap_or(0);
            prop_assume!(length > 0);
            let mut record = format!("{length} k=").into_bytes();
            record.extend_from_slice(&value);
            record.push(b'\n');
            let twice = Records::parse(&[&record[..], &record[..]].concat()).unwrap();
            prop_assert_eq!(twice.iter().count(), 2);
            prop_assert_eq!(twice.get("k"), Some(&value[..]));
        }

        #[test]
        fn any_bytes_end_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _outcome = Records::parse(&bytes);
            let _outcome = time(&bytes);
        }
    }

    #[test]
    fn times_have_nanoseconds_and_a_sign() {
        let cases = [
            ("0", Some((0, 0))),
            ("1600000000.123456789", Some((1_600_000_000, 123_456_789))),
            ("1.5", Some((1, 500_000_000))),
            ("1.0000000019", Some((1, 1))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("1.", Some((1, 0))),
            (".5", None),
            ("1.x", None),
            ("--1", None),
            ("99999999999999999999", None),
        ];
        for (text, expected) in cases {
            let found = time(text.as_bytes()).map(|t| (t.seconds, t.nanos));
            assert_eq!(found, expected, "{text}");
        }
    }
}
