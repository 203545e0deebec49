//! The service's flags (protocol 10.4): arguments from the host's kernel line in, [`Flags`] out.
//!
//! The syntax is that of Go's `flag` package, because the host was written against it: one or
//! two dashes, `-name value` or `-name=value`, booleans bare or with `=`, the first argument that is
//! not a flag ends them. Only flags that do not exist are taken differently: a newer host may know
//! them, so they are passed over (P-345).

use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::log::{Format, Level};

/// What an unset policy does with a request (`-initial-policy-stance`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    Allow,
    Deny,
}

/// Flags of the service, with their defaults (protocol 10.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// Accept protocol 4, the only one hcsshim still speaks.
    pub v4: bool,
    pub log_level: Level,
    /// `None`: the log goes to stderr, which the host's line connects to port 109.
    pub log_file: Option<PathBuf>,
    pub log_format: Format,
    /// Kernel messages of this priority (0..=7) and more urgent ones are logged.
    pub kmsg_log_level: u32,
    /// Written to `/proc/sys/kernel/core_pattern`.
    pub core_dump_location: Option<OsString>,
    /// Bridge on stdin and stdout instead of a dialled connection.
    pub use_inouterr: bool,
    /// Bytes of RAM that containers as a whole may not use.
    pub root_mem_reserve_bytes: u64,
    /// Bytes; the service using more is worth a warning.
    pub gcs_mem_limit_bytes: u64,
    pub disable_time_sync: bool,
    /// Environment and annotation values stay out of the log (P-308, P-346).
    pub scrub_logs: bool,
    pub initial_policy_stance: Stance,
    /// Only this guest has it. For hosts that give the VM no PTP clock: the port that answers with
    /// the time, see [`clock::source::ask`](crate::machine::clock::source::ask).
    pub time_port: Option<u32>,
    /// Only this guest has it. The log goes to this port of the host, which is dialled again
    /// whenever the connection is lost. PID 1 takes the port from the wrapper's `-e`.
    pub log_port: Option<u32>,
    /// Only this guest has it. For tests on an ordinary machine: port `P` is the Unix socket
    /// `<prefix>_<P>`.
    pub dial_unix: Option<PathBuf>,
    /// Flags that were passed over, each with its value.
    pub unknown: Vec<String>,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            v4: false,
            log_level: Level::Debug,
            log_file: None,
            log_format: Format::Text,
            kmsg_log_level: 4,
            core_dump_location: None,
            use_inouterr: false,
            root_mem_reserve_bytes: 75 << 20,
            gcs_mem_limit_bytes: 50 << 20,
            disable_time_sync: false,
            scrub_logs: true,
            initial_policy_stance: Stance::Allow,
            time_port: None,
            log_port: None,
            dial_unix: None,
            unknown: Vec::new(),
        }
    }
}

/// Why the arguments are not valid flags. The caller prints it with [`usage`] and exits with 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    #[error("flag -{name} needs a value")]
    Missing { name: String },
    #[error("flag -{name} cannot be {value:?}: {why}")]
    Value {
        name: &'static str,
        value: String,
        why: &'static str,
    },
    #[error("help was asked for")]
    Help,
}

/// How a flag takes its value, and what it does with it.
enum Set {
    Switch(fn(&mut Flags, bool)),
    Value(fn(&mut Flags, &OsStr) -> Result<(), &'static str>),
}

struct Flag {
    name: &'static str,
    /// Shown in the usage.
    help: &'static str,
    set: Set,
}

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag { name: "core-dump-location", help: "pattern for /proc/sys/kernel/core_pattern", set: Set::Value(|f, v| { f.core_dump_location = non_empty(v).map(OsStr::to_owned); Ok(()) }) },
    Flag { name: "dial-unix", help: "tests only: dial Unix sockets <prefix>_<port> instead of vsock", set: Set::Value(|f, v| { f.dial_unix = non_empty(v).map(PathBuf::from); Ok(()) }) },
    Flag { name: "disable-time-sync", help: "leave the clock alone", set: Set::Switch(|f, on| f.disable_time_sync = on) },
    Flag { name: "gcs-mem-limit-bytes", help: "warn when the service uses more", set: Set::Value(|f, v| { f.gcs_mem_limit_bytes = unsigned(v)?; Ok(()) }) },
    Flag { name: "initial-policy-stance", help: "allow | deny", set: Set::Value(|f, v| { f.initial_policy_stance = stance(v)?; Ok(()) }) },
    Flag { name: "kmsgLogLevel", help: "log kernel messages up to this priority", set: Set::Value(|f, v| { f.kmsg_log_level = u32::try_from(unsigned(v)?).map_err(|_| "it is too large")?; Ok(()) }) },
    Flag { name: "log-format", help: "text | json", set: Set::Value(|f, v| { f.log_format = text(v).parse()?; Ok(()) }) },
    Flag { name: "log-port", help: "log to this port of the host instead of to stderr", set: Set::Value(|f, v| { f.log_port = Some(u32::try_from(unsigned(v)?).map_err(|_| "it is too large")?); Ok(()) }) },
    Flag { name: "logfile", help: "log there instead of to stderr", set: Set::Value(|f, v| { f.log_file = non_empty(v).map(PathBuf::from); Ok(()) }) },
    Flag { name: "loglevel", help: "trace | debug | info | warning | error | fatal | panic", set: Set::Value(|f, v| { f.log_level = text(v).parse()?; Ok(()) }) },
    Flag { name: "root-mem-reserve-bytes", help: "memory that containers may not use", set: Set::Value(|f, v| { f.root_mem_reserve_bytes = unsigned(v)?; Ok(()) }) },
    Flag { name: "scrub-logs", help: "no environment or annotation values in the log", set: Set::Switch(|f, on| f.scrub_logs = on) },
    Flag { name: "use-inouterr", help: "bridge on stdin and stdout", set: Set::Switch(|f, on| f.use_inouterr = on) },
    Flag { name: "time-port", help: "ask the host for the time at this port, not a PTP clock", set: Set::Value(|f, v| { f.time_port = Some(u32::try_from(unsigned(v)?).map_err(|_| "it is too large")?); Ok(()) }) },
    Flag { name: "v4", help: "accept protocol 4", set: Set::Switch(|f, on| f.v4 = on) },
];

impl Flags {
    /// Reads the arguments after the program's name. Those after the flags are ignored, as in the
    /// reference.
    ///
    /// # Errors
    /// The first flag with a value that it cannot have (P-300).
    pub fn parse<I>(args: I) -> Result<Self, FlagError>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let mut flags = Self::default();
        let mut args = args.into_iter().map(Into::into).peekable();
        while let Some(arg) = args.next() {
            let name = match arg.as_bytes() {
                b"--" => break,
                [b'-', b'-', rest @ ..] => rest,
                [b'-', rest @ ..] if !rest.is_empty() => rest,
                _ => break,
            };
            let (name, inline) = match name.iter().position(|b| *b == b'=') {
                Some(at) => (&name[..at], Some(OsStr::from_bytes(&name[at + 1..]))),
                None => (name, None),
            };
            if matches!(name, b"h" | b"help") {
                return Err(FlagError::Help);
            }
            match FLAGS.iter().find(|flag| flag.name.as_bytes() == name) {
                Some(flag) => flags.set(flag, inline, &mut args)?,
                None => flags.pass_over(&arg, &mut args),
            }
        }
        Ok(flags)
    }

    /// Notes a flag that does not exist. A following word that is not a flag is taken for its value.
    fn pass_over(&mut self, flag: &OsStr, rest: &mut Peekable<impl Iterator<Item = OsString>>) {
        let mut words = text(flag).into_owned();
        if let Some(value) = rest.next_if(|word| !word.as_bytes().starts_with(b"-")) {
            words.push(' ');
            words.push_str(&text(&value));
        }
        self.unknown.push(words);
    }

    fn set(
        &mut self,
        flag: &Flag,
        inline: Option<&OsStr>,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), FlagError> {
        let bad = |value: &OsStr, why| FlagError::Value {
            name: flag.name,
            value: text(value).into_owned(),
            why,
        };
        match (&flag.set, inline) {
            (Set::Switch(set), None) => set(self, true),
            (Set::Switch(set), Some(value)) => {
                set(self, boolean(value).map_err(|why| bad(value, why))?);
            }
            (Set::Value(set), Some(value)) => set(self, value).map_err(|why| bad(value, why))?,
            (Set::Value(set), None) => {
                let value = rest.next().ok_or_else(|| FlagError::Missing {
                    name: flag.name.to_owned(),
                })?;
                set(self, &value).map_err(|why| bad(&value, why))?;
            }
        }
        Ok(())
    }
}

/// One line per flag, for a person at a terminal.
pub fn usage() -> String {
    let mut out = String::from("usage: gcs [flags]\n");
    for flag in FLAGS {
        let value = match flag.set {
            Set::Switch(_) => "[=true|false]",
            Set::Value(_) => " VALUE",
        };
        out.push_str(&format!("  -{}{value}\n        {}\n", flag.name, flag.help));
    }
    out
}

fn text(value: &OsStr) -> std::borrow::Cow<'_, str> {
    value.to_string_lossy()
}

fn non_empty(value: &OsStr) -> Option<&OsStr> {
    (!value.is_empty()).then_some(value)
}

/// The spellings of Go's `strconv.ParseBool`.
fn boolean(value: &OsStr) -> Result<bool, &'static str> {
    match value.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok(false),
        _ => Err("it takes true or false"),
    }
}

/// A Go unsigned literal: decimal, `0x`, `0o`, `0b` or a leading zero for octal.
fn unsigned(value: &OsStr) -> Result<u64, &'static str> {
    const WHY: &str = "it takes a number of at most 64 bits, without sign";
    let value = value.to_str().ok_or(WHY)?;
    let lower = value.to_ascii_lowercase();
    let (digits, radix) = if let Some(rest) = lower.strip_prefix("0x") {
        (rest, 16)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (rest, 2)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (rest, 8)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (&lower[1..], 8)
    } else {
        (lower.as_str(), 10)
    };
    if digits.starts_with('+') {
        return Err(WHY);
    }
    u64::from_str_radix(digits, radix).map_err(|_| WHY)
}

fn stance(value: &OsStr) -> Result<Stance, &'static str> {
    match value.as_bytes() {
        b"allow" => Ok(Stance::Allow),
        b"deny" => Ok(Stance::Deny),
        _ => Err("it takes allow or deny"),
    }
}

/// Splits a command given as one string at blanks; for the shell form of the host's line.
pub fn split_args(line: &OsStr) -> Vec<OsString> {
    line.as_bytes()
        .split(u8::is_ascii_whitespace)
        .filter(|arg| !arg.is_empty())
        .map(|arg| OsString::from_vec(arg.to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagError> {
        Flags::parse(split_args(OsStr::new(line)))
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let flags = parse("").expect("no arguments are fine");
        assert_eq!(flags, Flags::default());
        assert_eq!(flags.root_mem_reserve_bytes, 78_643_200);
        assert_eq!(flags.gcs_mem_limit_bytes, 52_428_800);
        assert_eq!(flags.kmsg_log_level, 4);
    }

    #[test]
    fn the_hosts_line_is_understood() {
        let flags = parse(
            "-v4 -log-format json -loglevel debug -disable-time-sync -scrub-logs=false \
             -core-dump-location /tmp/core.%p",
        )
        .expect("the host's own line");
        assert!(flags.v4 && flags.disable_time_sync && !flags.scrub_logs);
        assert_eq!(flags.log_format, Format::Json);
        assert_eq!(flags.core_dump_location, Some("/tmp/core.%p".into()));
    }

    #[test]
    fn every_value_flag_takes_all_four_forms() {
        for (name, value) in [
            ("core-dump-location", "/x"),
            ("dial-unix", "/x"),
            ("gcs-mem-limit-bytes", "0x10"),
            ("initial-policy-stance", "deny"),
            ("kmsgLogLevel", "7"),
            ("log-format", "json"),
            ("log-port", "109"),
            ("logfile", "/x"),
            ("loglevel", "WARN"),
            ("root-mem-reserve-bytes", "017"),
            ("time-port", "300"),
        ] {
            let forms = [
                format!("-{name} {value}"),
                format!("--{name} {value}"),
                format!("-{name}={value}"),
                format!("--{name}={value}"),
            ];
            let first = parse(&forms[0]).expect(name);
            assert_ne!(first, Flags::default(), "{name} had no effect");
            for form in &forms[1..] {
                assert_eq!(parse(form).as_ref(), Ok(&first), "{form}");
            }
        }
    }

    #[test]
    fn switches_are_bare_or_with_equals_and_never_eat_the_next_word() {
        for name in ["v4", "disable-time-sync", "scrub-logs", "use-inouterr"] {
            let on = parse(&format!("-{name}")).expect(name);
            for form in ["--{}", "-{}=true", "--{}=1", "-{}=T"] {
                assert_eq!(parse(&form.replace("{}", name)).as_ref(), Ok(&on), "{form}");
            }
            let off = parse(&format!("-{name} -{name}=false")).expect(name);
            assert_ne!(off, on, "{name} had no effect");
        }
        let ended = parse("-v4 true -scrub-logs=false").expect("an argument ends the flags");
        assert!(ended.v4 && ended.scrub_logs);
    }

    #[test]
    fn flags_of_newer_hosts_are_passed_over_and_named() {
        for (line, wanted) in [
            ("-nope -v4", &["-nope"][..]),
            ("-nope=1 --nope=a=b -v4", &["-nope=1", "--nope=a=b"]),
            ("-nope 1 -v4", &["-nope 1"]),
            ("--nope maybe --v4", &["--nope maybe"]),
            (
                "-use-inittab ---v4 -=x -v4",
                &["-use-inittab", "---v4", "-=x"],
            ),
            ("-V4 -LogLevel loud -v4", &["-V4", "-LogLevel loud"]),
            ("-\u{1}\u{7} -v4", &["-\u{1}\u{7}"]),
        ] {
            let flags = parse(line).expect(line);
            assert!(flags.v4, "{line}: what follows is not read");
            assert_eq!(flags.unknown, wanted, "{line}");
        }
        let many = parse(&format!("{}-v4", "-n 1 ".repeat(200))).expect("200 of them");
        assert_eq!((many.v4, many.unknown.len()), (true, 200));
        let empty = Flags::parse(["-nope", "", "-v4"]).expect("an empty value");
        assert_eq!((empty.v4, empty.unknown), (true, vec!["-nope ".to_owned()]));
    }

    #[test]
    fn double_dash_and_a_single_dash_end_the_flags() {
        for line in ["-- -nonsense", "- -nonsense", "arg -nonsense"] {
            assert_eq!(parse(line), Ok(Flags::default()), "{line}");
        }
    }

    #[test]
    fn bad_values_are_refused_with_the_name_of_their_flag() {
        for (line, want) in [
            ("-v4=maybe", "-v4 cannot be \"maybe\""),
            ("-loglevel", "-loglevel needs a value"),
            ("-loglevel loud", "-loglevel cannot be \"loud\""),
            ("-log-format=xml", "-log-format cannot be \"xml\""),
            ("-initial-policy-stance perhaps", "cannot be \"perhaps\""),
            ("-kmsgLogLevel -1", "cannot be \"-1\""),
            ("-root-mem-reserve-bytes 1k", "cannot be \"1k\""),
            ("-time-port 0x100000000", "cannot be \"0x100000000\""),
            ("-gcs-mem-limit-bytes=", "cannot be \"\""),
            ("-help", "help"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(want), "{line}: {error}");
        }
    }

    #[test]
    fn usage_names_every_flag() {
        let usage = usage();
        for flag in FLAGS {
            assert!(usage.contains(&format!("-{}", flag.name)));
        }
    }
}
