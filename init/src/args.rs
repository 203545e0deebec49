//! The host's boot line (protocol 10.1 to 10.3): PID 1's arguments in, what to start out.
//!
//! `[-d SHELL] [-e PORT] [-w] PROGRAM [ARG...]`. Where the program is our own service, PID 1
//! becomes it instead of starting it. Parsed by hand: three options are not worth a crate, and none
//! passes over an option that only a newer host knows (P-345).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use gcs::config::split_args;

/// What PID 1 is to do after the machine is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// A debug shell (`-d`). When it ends, the machine ends.
    pub shell: Option<OsString>,
    /// Port that gives random bytes (`-e`).
    pub entropy: Option<u32>,
    /// Writable `/etc` and `/var` over a read-only root (`-w`).
    pub overlays: bool,
    /// Options that were passed over, each with its value.
    pub unknown: Vec<String>,
    pub command: Command,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Our own service, in this process.
    Service(Wrapped),
    /// Any program, as a child; never empty.
    Program(Vec<OsString>),
}

/// A program with some of its standard streams on connections to the host (protocol 10.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wrapped {
    pub streams: Streams,
    /// Options that were passed over, each with its value.
    pub unknown: Vec<String>,
    /// The program and its arguments; for [`Command::Service`] only those after the program's name.
    pub args: Vec<OsString>,
}

/// Where the standard streams of a wrapped program lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Streams {
    /// To ports of the host, each connected once before the program starts.
    Once {
        stdin: Option<u32>,
        stdout: Option<u32>,
        stderr: Option<u32>,
    },
    /// Through the wrapper to one port, which is dialled for ever (`-r`, P-340).
    Relayed { port: u32, outputs: Outputs },
}

/// The streams that are relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    Stdout,
    Stderr,
    Both,
}

impl Default for Streams {
    fn default() -> Self {
        Self::Once {
            stdin: None,
            stdout: None,
            stderr: None,
        }
    }
}

impl Streams {
    /// The port of stderr, where the service logs to.
    pub fn log_port(&self) -> Option<u32> {
        match *self {
            Self::Once { stderr, .. } => stderr,
            Self::Relayed { outputs, port } => (outputs != Outputs::Stdout).then_some(port),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgError {
    #[error("option -{0} needs a value")]
    Missing(char),
    #[error("option -r needs -o or -e, which name the stream that it keeps connected")]
    NothingToRelay,
    #[error("option -{option} needs a port from 1 to 4294967295, not {value:?}")]
    Port { option: char, value: OsString },
    #[error("a program to start is needed")]
    NoProgram,
}

/// What the parser has to know about the file system it runs on.
pub struct Surroundings<'a> {
    /// Whether the name leads to this very binary.
    pub is_own: &'a dyn Fn(&OsStr) -> bool,
    /// Whether there is such a program.
    pub exists: &'a dyn Fn(&OsStr) -> bool,
}

/// Reads the arguments after PID 1's name.
///
/// # Errors
/// An option without its value, an invalid port, or no program.
pub fn boot(line: &[OsString], around: &Surroundings<'_>) -> Result<Boot, ArgError> {
    if line.is_empty() {
        return Ok(without_args());
    }
    let mut boot = Boot {
        shell: None,
        entropy: None,
        overlays: false,
        unknown: Vec::new(),
        command: Command::Program(Vec::new()),
    };
    let mut options = Options::new(line, "de", "w");
    while let Some((option, value)) = options.next()? {
        match option {
            'd' => boot.shell = Some(value),
            'e' => boot.entropy = Some(port(option, &value)?),
            _ => boot.overlays = true,
        }
    }
    let program = with_shell_line(options.args);
    boot.unknown = options.unknown;
    if program.is_empty() {
        return Err(ArgError::NoProgram);
    }
    // With a debug shell the shell is "the" child, so the service has to be another one.
    let service = match boot.shell {
        Some(_) => None,
        None => service(&program, around),
    };
    boot.command = service.map_or_else(|| Command::Program(program), Command::Service);
    Ok(boot)
}

/// The words of a program, with the new shim's form of a line for the shell made whole: it writes
/// `sh -c"LINE"`, and the kernel takes away quotes at the ends of a word only, so the word arrives
/// as it was written (P-343). A quote in the line has it arrive in several words.
fn with_shell_line(program: &[OsString]) -> Vec<OsString> {
    const BEGINS: &[u8] = b"-c\"";
    match program {
        [name, first, ..] if file_name(name) == b"sh" && first.as_bytes().starts_with(BEGINS) => {
            let words: Vec<&[u8]> = program[1..].iter().map(|word| word.as_bytes()).collect();
            let word = words.join(&b' ');
            let line = &word[BEGINS.len()..];
            let line = line.strip_suffix(b"\"").unwrap_or(line);
            vec![name.clone(), "-c".into(), OsStr::from_bytes(line).into()]
        }
        _ => program.to_vec(),
    }
}

/// The name by which this program is started when the image and its kernel line are measured
/// together (protocol 10.3). There a script in the image says what to start, and not the host. This
/// image has no shell, so this program takes the place of the script.
pub const STARTUP: &str = "/startup.sh";

/// The line that the script gives PID 1, whatever its own arguments are.
pub fn startup() -> Vec<OsString> {
    split_args(OsStr::new(
        "-e 1 /bin/vsockexec -o 109 -e 109 /bin/gcs -v4 -log-format json -loglevel debug",
    ))
}

/// What runs without any arguments: the service with a log file, and a shell beside it.
fn without_args() -> Boot {
    let program = [
        "/bin/gcs",
        "-loglevel",
        "debug",
        "-logfile=/run/gcs/gcs.log",
    ];
    Boot {
        shell: Some("/bin/sh".into()),
        entropy: None,
        overlays: false,
        unknown: Vec::new(),
        command: Command::Program(program.map(OsString::from).to_vec()),
    }
}

/// The wrapper's arguments after its name: `[-r] [-i PORT] [-o PORT] [-e PORT] PROGRAM [ARG...]`.
///
/// # Errors
/// As for [`boot`], or `-r` without a stream.
pub fn wrapped(line: &[OsString]) -> Result<Wrapped, ArgError> {
    let [mut stdin, mut stdout, mut stderr] = [None; 3];
    let mut relays = false;
    let mut options = Options::new(line, "ioe", "r");
    while let Some((option, value)) = options.next()? {
        let stream = match option {
            'i' => &mut stdin,
            'o' => &mut stdout,
            'e' => &mut stderr,
            _ => {
                relays = true;
                continue;
            }
        };
        *stream = Some(port(option, &value)?);
    }
    let streams = match (relays, stdout, stderr) {
        (false, ..) => Streams::Once {
            stdin,
            stdout,
            stderr,
        },
        (true, None, None) => return Err(ArgError::NothingToRelay),
        // Of two ports that of stderr is taken for both.
        (true, stdout, Some(port)) => Streams::Relayed {
            port,
            outputs: stdout.map_or(Outputs::Stderr, |_| Outputs::Both),
        },
        (true, Some(port), None) => Streams::Relayed {
            port,
            outputs: Outputs::Stdout,
        },
    };
    if options.args.is_empty() {
        return Err(ArgError::NoProgram);
    }
    Ok(Wrapped {
        streams,
        args: options.args.to_vec(),
        unknown: options.unknown,
    })
}

/// The start of the service in `program`, if the program would do nothing else.
fn service(program: &[OsString], around: &Surroundings<'_>) -> Option<Wrapped> {
    let (name, rest) = program.split_first()?;
    match (file_name(name), rest) {
        (b"gcs", _) if (around.is_own)(name) => Some(Wrapped {
            args: rest.to_vec(),
            ..Wrapped::default()
        }),
        (b"vsockexec", _) if (around.is_own)(name) => {
            let mut wrapped = wrapped(rest).ok()?;
            let inner = wrapped.args.remove(0);
            let ours = file_name(&inner) == b"gcs" && (around.is_own)(&inner);
            ours.then_some(wrapped)
        }
        // The form with a console. An image without a shell cannot serve the console, but it can
        // still start the service that the host waits for.
        (b"sh", [flag, line]) if flag == "-c" && !(around.exists)(name) => {
            let end = line.as_bytes().iter().position(|byte| *byte == b'&')?;
            service(
                &split_args(OsStr::from_bytes(&line.as_bytes()[..end])),
                around,
            )
        }
        _ => None,
    }
}

fn file_name(arg: &OsStr) -> &[u8] {
    Path::new(arg).file_name().map_or(b"", OsStr::as_bytes)
}

fn port(option: char, value: &OsStr) -> Result<u32, ArgError> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.filter(|port| *port != 0).ok_or(ArgError::Port {
        option,
        value: value.to_owned(),
    })
}

/// getopt(3) as far as it is needed: single letters, values attached or in the next argument; the
/// first argument that is not an option ends them. An unknown letter is passed over with the rest of
/// its word, and with a following word of digits, which can only be its value.
struct Options<'a> {
    /// What was not read yet.
    args: &'a [OsString],
    /// Letters still to be read in the current argument.
    letters: Vec<u8>,
    with_value: &'static str,
    without: &'static str,
    unknown: Vec<String>,
}

impl<'a> Options<'a> {
    fn new(args: &'a [OsString], with_value: &'static str, without: &'static str) -> Self {
        Self {
            args,
            letters: Vec::new(),
            with_value,
            without,
            unknown: Vec::new(),
        }
    }

    fn next(&mut self) -> Result<Option<(char, OsString)>, ArgError> {
        loop {
            if self.letters.is_empty() && !self.next_word() {
                return Ok(None);
            }
            let letter = char::from(self.letters.remove(0));
            if self.without.contains(letter) {
                return Ok(Some((letter, OsString::new())));
            }
            if self.with_value.contains(letter) {
                return self.value(letter).map(|value| Some((letter, value)));
            }
            self.pass_over(letter);
        }
    }

    /// Takes the letters of the next argument, if it is an option.
    fn next_word(&mut self) -> bool {
        let Some((arg, rest)) = self.args.split_first() else {
            return false;
        };
        match arg.as_bytes() {
            b"--" => {
                self.args = rest;
                false
            }
            [b'-', letters @ ..] if !letters.is_empty() => {
                self.letters = letters.to_vec();
                self.args = rest;
                true
            }
            _ => false,
        }
    }

    fn value(&mut self, letter: char) -> Result<OsString, ArgError> {
        let attached = std::mem::take(&mut self.letters);
        if !attached.is_empty() {
            return Ok(OsStr::from_bytes(&attached).to_owned());
        }
        let (value, rest) = self.args.split_first().ok_or(ArgError::Missing(letter))?;
        self.args = rest;
        Ok(value.clone())
    }

    fn pass_over(&mut self, letter: char) {
        let rest = std::mem::take(&mut self.letters);
        let mut text = format!("-{letter}{}", String::from_utf8_lossy(&rest));
        let digits =
            |word: &OsString| !word.is_empty() && word.as_bytes().iter().all(u8::is_ascii_digit);
        if let Some((value, rest)) = self.args.split_first().filter(|(word, _)| digits(word)) {
            text.push_str(&format!(" {}", value.display()));
            self.args = rest;
        }
        self.unknown.push(text);
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
