//! The host's boot line (protocol 10.1 to 10.3): PID 1's arguments in, what to start out.
//!
//! `[-d SHELL] [-e PORT] [-w] PROGRAM [ARG...]`. Where the program is our own service, PID 1
//! becomes it instead of starting it. Parsed by hand: three options are not worth a crate.

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
    pub stdin: Option<u32>,
    pub stdout: Option<u32>,
    pub stderr: Option<u32>,
    /// The program and its arguments; for [`Command::Service`] only those after the program's name.
    pub args: Vec<OsString>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgError {
    #[error("there is no option {0:?}")]
    Unknown(OsString),
    #[error("option -{0} needs a value")]
    Missing(char),
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
/// An option that does not exist, or an invalid port.
pub fn boot(line: &[OsString], around: &Surroundings<'_>) -> Result<Boot, ArgError> {
    if line.is_empty() {
        return Ok(without_args());
    }
    let mut boot = Boot {
        shell: None,
        entropy: None,
        overlays: false,
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
    let program = options.rest();
    if program.is_empty() {
        return Err(ArgError::NoProgram);
    }
    // With a debug shell the shell is "the" child, so the service has to be another one.
    let service = match boot.shell {
        Some(_) => None,
        None => service(program, around),
    };
    boot.command = service.map_or_else(|| Command::Program(program.to_vec()), Command::Service);
    Ok(boot)
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
        command: Command::Program(program.map(OsString::from).to_vec()),
    }
}

/// The wrapper's arguments after its name: `[-i PORT] [-o PORT] [-e PORT] PROGRAM [ARG...]`.
///
/// # Errors
/// As for [`boot`].
pub fn wrapped(line: &[OsString]) -> Result<Wrapped, ArgError> {
    let mut wrapped = Wrapped::default();
    let mut options = Options::new(line, "ioe", "");
    while let Some((option, value)) = options.next()? {
        let port = Some(port(option, &value)?);
        match option {
            'i' => wrapped.stdin = port,
            'o' => wrapped.stdout = port,
            _ => wrapped.stderr = port,
        }
    }
    wrapped.args = options.rest().to_vec();
    if wrapped.args.is_empty() {
        return Err(ArgError::NoProgram);
    }
    Ok(wrapped)
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
            let line = split_args(line);
            let end = line.iter().position(|arg| arg == "&")?;
            service(&line[..end], around)
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
/// first argument that is not an option ends them.
struct Options<'a> {
    args: &'a [OsString],
    /// Letters still to be read in the current argument.
    letters: Vec<u8>,
    with_value: &'static str,
    without: &'static str,
}

impl<'a> Options<'a> {
    fn new(args: &'a [OsString], with_value: &'static str, without: &'static str) -> Self {
        Self {
            args,
            letters: Vec::new(),
            with_value,
            without,
        }
    }

    fn next(&mut self) -> Result<Option<(char, OsString)>, ArgError> {
        if self.letters.is_empty() {
            let Some((arg, rest)) = self.args.split_first() else {
                return Ok(None);
            };
            match arg.as_bytes() {
                b"--" => {
                    self.args = rest;
                    return Ok(None);
                }
                [b'-', letters @ ..] if !letters.is_empty() => self.letters = letters.to_vec(),
                _ => return Ok(None),
            }
            self.args = rest;
        }
        let letter = char::from(self.letters.remove(0));
        if self.without.contains(letter) {
            return Ok(Some((letter, OsString::new())));
        }
        if !self.with_value.contains(letter) {
            return Err(ArgError::Unknown(format!("-{letter}").into()));
        }
        let attached = std::mem::take(&mut self.letters);
        if !attached.is_empty() {
            return Ok(Some((letter, OsStr::from_bytes(&attached).to_owned())));
        }
        let Some((value, rest)) = self.args.split_first() else {
            return Err(ArgError::Missing(letter));
        };
        self.args = rest;
        Ok(Some((letter, value.clone())))
    }

    fn rest(&self) -> &'a [OsString] {
        self.args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GCS: &str = "-v4 -log-format json -loglevel debug";

    fn list(line: &str) -> Vec<OsString> {
        split_args(OsStr::new(line))
    }

    fn parse_in(line: &[OsString], shell: bool) -> Result<Boot, ArgError> {
        boot(
            line,
            &Surroundings {
                is_own: &|arg| {
                    ["/bin/gcs", "/bin/vsockexec", "gcs"]
                        .iter()
                        .any(|own| arg == *own)
                },
                exists: &|_| shell,
            },
        )
    }

    fn parse(line: &str) -> Result<Boot, ArgError> {
        parse_in(&list(line), true)
    }

    fn service(entropy: Option<u32>, wrapped: Wrapped) -> Boot {
        Boot {
            shell: None,
            entropy,
            overlays: false,
            command: Command::Service(wrapped),
        }
    }

    fn logged() -> Wrapped {
        Wrapped {
            stderr: Some(109),
            args: list(GCS),
            ..Wrapped::default()
        }
    }

    #[test]
    fn the_hosts_default_line_is_our_service() {
        let boot = parse(&format!("-e 1 /bin/vsockexec -e 109 /bin/gcs {GCS}"));
        assert_eq!(boot, Ok(service(Some(1), logged())));
    }

    #[test]
    fn the_other_forms_of_the_hosts_line() {
        let both = Wrapped {
            stdout: Some(109),
            ..logged()
        };
        for (line, wrapped) in [
            (
                format!("-e 1 /bin/vsockexec -o 109 -e 109 /bin/gcs {GCS}"),
                both,
            ),
            (
                format!("-e 1 /bin/vsockexec -e109 /bin/gcs {GCS}"),
                logged(),
            ),
            (
                format!("-e1 -- /bin/vsockexec /bin/gcs {GCS}"),
                Wrapped {
                    stderr: None,
                    ..logged()
                },
            ),
            (
                format!("-e 1 gcs {GCS}"),
                Wrapped {
                    stderr: None,
                    ..logged()
                },
            ),
        ] {
            assert_eq!(parse(&line), Ok(service(Some(1), wrapped)), "{line}");
        }
    }

    #[test]
    fn the_shell_form_is_the_shells_work_where_there_is_one() {
        let inner = format!("/bin/vsockexec -e 109 /bin/gcs {GCS} & exec sh");
        let line: Vec<OsString> = ["-e", "1", "sh", "-c", &inner].map(OsString::from).into();
        let with = parse_in(&line, true).expect("a good line");
        assert_eq!(with.command, Command::Program(line[2..].to_vec()));
        assert_eq!(parse_in(&line, false), Ok(service(Some(1), logged())));
    }

    #[test]
    fn other_programs_are_children_with_all_their_words() {
        for line in [
            "/bin/echo -e 5",
            "sh -c exit",
            "/usr/local/bin/gcs -v4",
            "/bin/vsockexec -e 109 /bin/other",
            "/bin/vsockexec -q /bin/gcs",
        ] {
            let boot = parse(line).expect(line);
            assert_eq!(boot.command, Command::Program(list(line)), "{line}");
        }
    }

    #[test]
    fn options_of_pid_1() {
        let boot = parse("-w -d /bin/bash -e 4294967295 /bin/gcs -v4").expect("a good line");
        assert_eq!(boot.shell, Some("/bin/bash".into()));
        assert_eq!(boot.entropy, Some(u32::MAX));
        assert!(boot.overlays);
        assert_eq!(boot.command, Command::Program(list("/bin/gcs -v4")));
        assert!(parse("-we7 prog").expect("joined letters").overlays);
        let nothing = parse("").expect("no arguments are fine");
        assert_eq!(nothing.shell, Some("/bin/sh".into()));
    }

    #[test]
    fn bad_lines_are_refused() {
        for (line, want) in [
            ("-e 0 /bin/gcs", "not \"0\""),
            ("-e x /bin/gcs", "not \"x\""),
            ("-e 4294967296 /bin/gcs", "not \"4294967296\""),
            ("-e", "-e needs a value"),
            ("-x /bin/gcs", "no option \"-x\""),
            ("-e 1", "a program"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(want), "{line}: {error}");
        }
        assert_eq!(wrapped(&list("-e 109")), Err(ArgError::NoProgram));
    }
}
