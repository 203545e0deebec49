//! The steps of a boot. Each is reported before it begins and after it has ended, so that a machine
//! that hangs shows where. [`report`] logs how long the boot took.
//!
//! Nobody listens in an image that ships; the bring-up image's console does.

use std::cell::RefCell;
use std::fmt::Display;
use std::time::Duration;

use crate::log::{emit, micros, uptime, Level, Record};

/// A step. [`Stage::ALL`] has them in the order of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Devices,
    KernelLog,
    BootLine,
    Modules,
    Calls,
    Mounts,
    OpenFiles,
    Settings,
    Overlays,
    Shells,
    Probe,
    Entropy,
    Log,
    Bridge,
    Negotiation,
    ControlGroups,
    Loopback,
    Groups,
}

/// Each step with its name, the part of the `boot:` record that its time belongs to, and what it
/// is about to do.
#[rustfmt::skip]
const TABLE: [(Stage, &str, &str, &str); 18] = [
    (Stage::Devices, "devices", "mounts", "mounting /dev and /proc"),
    (Stage::KernelLog, "kernel log", "mounts", "opening /dev/kmsg"),
    (Stage::BootLine, "boot line", "mounts", "reading what the host wants started"),
    (Stage::Modules, "modules", "mounts", "loading the kernel modules of the image"),
    (Stage::Calls, "calls", "mounts", "dialling the host's ports for entropy and log; waits for a vsock transport"),
    (Stage::Mounts, "mounts", "mounts", "mounting /run, /tmp, /dev/shm, /dev/pts and /sys"),
    (Stage::OpenFiles, "open files", "mounts", "raising the limit of open files"),
    (Stage::Settings, "settings", "mounts", "writing kernel settings"),
    (Stage::Overlays, "overlays", "mounts", "making /etc and /var writable"),
    (Stage::Shells, "shells", "probe", "starting the listener for shells"),
    (Stage::Probe, "probe", "probe", "looking at the machine"),
    (Stage::Entropy, "entropy", "entropy", "taking random bytes from the host"),
    (Stage::Log, "log", "log", "connecting the log to the host"),
    (Stage::Bridge, "bridge", "bridge", "dialling the bridge, port 0x40000000 of the host"),
    (Stage::Negotiation, "negotiation", "negotiation", "waiting for the host's NegotiateProtocol"),
    (Stage::ControlGroups, "cgroups", "groups", "mounting the control groups"),
    (Stage::Loopback, "loopback", "groups", "bringing the loopback interface up"),
    (Stage::Groups, "service groups", "groups", "making directories and groups of the service"),
];

impl Stage {
    pub const ALL: [Stage; TABLE.len()] = {
        let mut all = [Stage::Devices; TABLE.len()];
        let mut index = 0;
        while index < TABLE.len() {
            all[index] = TABLE[index].0;
            index += 1;
        }
        all
    };

    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// What the step is about to do.
    pub fn doing(self) -> &'static str {
        TABLE[self as usize].3
    }

    /// The part of the boot that the step's time counts for in [`report`].
    fn part(self) -> &'static str {
        TABLE[self as usize].2
    }
}

/// What a listener is told.
pub enum Event<'a> {
    /// It is about to begin.
    Begins(Stage),
    /// It has succeeded.
    Done(Stage),
    /// It has failed. The boot may go on all the same.
    Failed(Stage, &'a dyn Display),
    /// Lines that belong to no step, as they are.
    Text(&'a str),
}

/// Begins an event in a stream of text.
pub const MARK: char = '\u{1}';

impl Event<'_> {
    /// As a line for another program, which knows the table: a mark, a letter, the step's number,
    /// microseconds since the machine's start, and the reason of a failure. Texts are themselves.
    pub fn encode(&self, micros: u128) -> String {
        let (letter, stage, why) = match self {
            Event::Begins(stage) => ('b', stage, None),
            Event::Done(stage) => ('d', stage, None),
            Event::Failed(stage, why) => ('f', stage, Some(why.to_string().replace('\n', " "))),
            Event::Text(text) => return format!("{text}\n"),
        };
        let why = why.unwrap_or_default();
        format!("{MARK}{letter} {} {micros} {why}\n", *stage as u8)
    }
}

/// An event as another program has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageEvent {
    pub stage: Stage,
    /// Since the machine's start.
    pub micros: u64,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Begins,
    Done,
    Failed(String),
}

impl StageEvent {
    /// Reads a line of [`Event::encode`], without its end.
    pub fn decode(line: &str) -> Option<Self> {
        let mut parts = line.strip_prefix(MARK)?.splitn(4, ' ');
        let letter = parts.next()?;
        let number: usize = parts.next()?.parse().ok()?;
        let micros = parts.next()?.parse().ok()?;
        let what = match letter {
            "b" => What::Begins,
            "d" => What::Done,
            "f" => What::Failed(parts.next().unwrap_or_default().to_owned()),
            _ => return None,
        };
        let stage = *Stage::ALL.get(number)?;
        Some(Self {
            stage,
            micros,
            what,
        })
    }
}

type Listener = Box<dyn FnMut(Event<'_>)>;

thread_local! {
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
    static TIMELINE: RefCell<Timeline> = const { RefCell::new(Timeline::new()) };
}

/// When each part of the boot ended.
struct Timeline {
    /// Uptime at the process's start; none until [`begin`], and none again after the report.
    start: Option<Duration>,
    /// By the names in [`TABLE`], in the order of their first steps.
    ends: Vec<(&'static str, Duration)>,
}

impl Timeline {
    const fn new() -> Self {
        Self {
            start: None,
            ends: Vec::new(),
        }
    }

    fn note(&mut self, part: &'static str, now: Duration) {
        match self.ends.iter_mut().find(|(name, _)| *name == part) {
            Some((_, end)) => *end = now,
            None => self.ends.push((part, now)),
        }
    }

    fn record(&self) -> Option<Record> {
        let start = self.start.filter(|_| !self.ends.is_empty())?;
        let since_start = |end: Duration| micros(end.saturating_sub(start));
        let ends = self
            .ends
            .iter()
            .map(|(part, end)| (part, since_start(*end)));
        let told: Vec<String> = ends.clone().map(|(p, us)| format!("{p} {us} us")).collect();
        let mut record = Record::new(Level::Info, format!("boot: {}", told.join(", ")));
        record.field("uptime_us", micros(start));
        for (part, us) in ends {
            record.field(&format!("{part}_us"), us);
        }
        Some(record)
    }
}

/// Notes the process's own start, from which the parts of the boot count.
pub fn begin() {
    TIMELINE.with_borrow_mut(|timeline| timeline.start = Some(uptime()));
}

/// Logs `boot: …` once: microseconds from the process's start to the end of each part, and the
/// machine's uptime at that start. Later calls log nothing.
pub fn report() {
    if let Some(record) = TIMELINE.replace(Timeline::new()).record() {
        emit(record);
    }
}

/// Reports every step to this listener from now on.
pub fn listen(listener: Listener) {
    LISTENER.set(Some(listener));
}

/// The listener goes, and what it holds with it.
pub fn quiet() {
    LISTENER.set(None);
}

/// Whether anybody listens. Nobody needs to make a report otherwise.
pub fn heard() -> bool {
    LISTENER.with_borrow(Option::is_some)
}

/// Tells the listener, if there is one. Steps inside the listener itself are not reported.
pub fn tell(event: Event<'_>) {
    if let Event::Done(stage) | Event::Failed(stage, _) = event {
        TIMELINE.with_borrow_mut(|timeline| timeline.note(stage.part(), uptime()));
    }
    LISTENER.with(|listener| {
        if let Ok(mut listener) = listener.try_borrow_mut() {
            if let Some(listener) = listener.as_mut() {
                listener(event);
            }
        }
    });
}

/// Does a step, and reports it before and after.
///
/// # Errors
/// Those of the work.
pub fn run<T, E: Display>(stage: Stage, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    tell(Event::Begins(stage));
    let result = work();
    match &result {
        Ok(_) => tell(Event::Done(stage)),
        Err(error) => tell(Event::Failed(stage, error)),
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index, "{stage:?}");
        }
    }

    #[test]
    fn parts_of_the_boot_end_with_their_last_step_and_count_from_the_start() {
        let at = Duration::from_micros;
        let mut timeline = Timeline::new();
        timeline.start = Some(at(500));
        for (stage, end) in [
            (Stage::Devices, 600),
            (Stage::Settings, 720),
            (Stage::Log, 900),
        ] {
            timeline.note(stage.part(), at(end));
        }
        let record = timeline.record().expect("steps have ended");
        assert_eq!(record.message, "boot: mounts 220 us, log 400 us");
        assert_eq!(record.fields[0], ("uptime_us".into(), 500.into()));
        assert_eq!(record.fields[2], ("log_us".into(), 400.into()));
        assert_eq!(Timeline::new().record(), None);
    }

    #[test]
    fn another_program_reads_what_was_told() {
        let told = |stage, what| {
            Some(StageEvent {
                stage,
                micros: 1_234_567,
                what,
            })
        };
        for (event, want) in [
            (
                Event::Begins(Stage::Devices),
                told(Stage::Devices, What::Begins),
            ),
            (
                Event::Done(Stage::Negotiation),
                told(Stage::Negotiation, What::Done),
            ),
            (
                Event::Failed(Stage::Log, &"nobody\nlistens"),
                told(Stage::Log, What::Failed("nobody listens".into())),
            ),
        ] {
            let line = event.encode(1_234_567);
            assert_eq!(
                StageEvent::decode(line.trim_end_matches('\n')),
                want,
                "{line:?}"
            );
        }
        assert_eq!(Event::Text("as it is").encode(7), "as it is\n");
        for bad in [
            "",
            "b 1 2",
            "\u{1}b",
            "\u{1}b 99 1 ",
            "\u{1}x 1 1 ",
            "\u{1}b 1 x ",
        ] {
            assert_eq!(StageEvent::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_step_is_told_before_and_after_and_not_once_nobody_listens() {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let notes = Rc::clone(&heard);
        listen(Box::new(move |event| {
            notes.borrow_mut().push(match event {
                Event::Begins(stage) => format!("{} ...", stage.name()),
                Event::Done(stage) => format!("{} ok", stage.name()),
                Event::Failed(stage, why) => format!("{} failed: {why}", stage.name()),
                Event::Text(text) => text.to_owned(),
            });
        }));
        let done = run(Stage::Mounts, || {
            tell(Event::Text("inside"));
            Ok::<_, String>(7)
        });
        let failed = run(Stage::Bridge, || Err::<(), _>("nobody answers"));
        quiet();
        run(Stage::Log, || Ok::<_, String>(())).unwrap();
        assert_eq!((done, failed), (Ok(7), Err("nobody answers")));
        assert_eq!(
            *heard.borrow(),
            [
                "mounts ...",
                "inside",
                "mounts ok",
                "bridge ...",
                "bridge failed: nobody answers"
            ]
        );
    }
}
