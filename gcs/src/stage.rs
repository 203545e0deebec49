//! The steps of a boot, each told before it begins and after it ended, so that a machine that
//! hangs shows where. Nobody listens in an image that ships; the bring-up image's console does.

use std::cell::RefCell;
use std::fmt::Display;

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
    ControlGroups,
    Loopback,
    Overlays,
    Shells,
    Probe,
    Groups,
    Entropy,
    Log,
    Bridge,
    Negotiation,
}

/// Name of each step, and what it is about to do.
#[rustfmt::skip]
const TABLE: [(Stage, &str, &str); 18] = [
    (Stage::Devices, "devices", "mounting /dev and /proc"),
    (Stage::KernelLog, "kernel log", "opening /dev/kmsg"),
    (Stage::BootLine, "boot line", "reading what the host wants started"),
    (Stage::Modules, "modules", "loading the kernel modules of the image"),
    (Stage::Calls, "calls", "dialling the host's ports for entropy and log; waits for a vsock transport"),
    (Stage::Mounts, "mounts", "mounting /run, /tmp, /dev/shm, /dev/pts and /sys"),
    (Stage::OpenFiles, "open files", "raising the limit of open files"),
    (Stage::Settings, "settings", "writing kernel settings"),
    (Stage::ControlGroups, "cgroups", "mounting the control groups"),
    (Stage::Loopback, "loopback", "bringing the loopback interface up"),
    (Stage::Overlays, "overlays", "making /etc and /var writable"),
    (Stage::Shells, "shells", "starting the listener for shells"),
    (Stage::Probe, "probe", "looking at the machine"),
    (Stage::Groups, "service groups", "making directories and groups of the service"),
    (Stage::Entropy, "entropy", "taking random bytes from the host"),
    (Stage::Log, "log", "connecting the log to the host"),
    (Stage::Bridge, "bridge", "dialling the bridge, port 0x40000000 of the host"),
    (Stage::Negotiation, "negotiation", "waiting for the host's NegotiateProtocol"),
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
        TABLE[self as usize].2
    }
}

/// What a listener hears.
pub enum Event<'a> {
    /// It is about to begin.
    Begins(Stage),
    /// It has done what it should.
    Done(Stage),
    /// It has not; the boot may go on all the same.
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
pub struct Told {
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

impl Told {
    /// Reads a line of [`Event::encode`], without its end.
    pub fn decode(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(MARK)?.splitn(4, ' ');
        let letter = words.next()?;
        let number: usize = words.next()?.parse().ok()?;
        let micros = words.next()?.parse().ok()?;
        let what = match letter {
            "b" => What::Begins,
            "d" => What::Done,
            "f" => What::Failed(words.next().unwrap_or_default().to_owned()),
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
}

/// Has a listener hear of every step from now on.
pub fn listen(listener: Listener) {
    LISTENER.set(Some(listener));
}

/// The listener goes, and what it holds with it.
pub fn quiet() {
    LISTENER.set(None);
}

/// Whether anybody listens; making a report for nobody is waste.
pub fn heard() -> bool {
    LISTENER.with_borrow(Option::is_some)
}

/// Tells the listener, if there is one. What a listener does while it listens is not told.
pub fn tell(event: Event<'_>) {
    LISTENER.with(|listener| {
        if let Ok(mut listener) = listener.try_borrow_mut() {
            if let Some(listener) = listener.as_mut() {
                listener(event);
            }
        }
    });
}

/// Does a step, and tells of it before and after.
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
    fn another_program_reads_what_was_told() {
        let told = |stage, what| {
            Some(Told {
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
            assert_eq!(Told::decode(line.trim_end_matches('\n')), want, "{line:?}");
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
            assert_eq!(Told::decode(bad), None, "{bad:?}");
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
