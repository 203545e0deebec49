//! The hosts' lines as a table, and lines that no host should write.

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
        unknown: Vec::new(),
        command: Command::Service(wrapped),
    }
}

fn once(stdout: Option<u32>, stderr: Option<u32>) -> Streams {
    Streams::Once {
        stdin: None,
        stdout,
        stderr,
    }
}

fn with(streams: Streams) -> Wrapped {
    Wrapped {
        streams,
        args: list(GCS),
        ..Wrapped::default()
    }
}

fn logged() -> Wrapped {
    with(once(None, Some(109)))
}

/// The words that the kernel gives PID 1: quotes hold a word together, and go away only around
/// a whole word and around what follows its `=` (lib/cmdline.c).
fn kernel_words(line: &str) -> Vec<OsString> {
    let mut words = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for c in line.chars().chain([' ']) {
        quoted ^= c == '"';
        match c {
            ' ' if !quoted && word.is_empty() => {}
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    // A quote that is not closed holds the rest together.
    words.extend(Some(word.trim_end().to_owned()).filter(|word| !word.is_empty()));
    let bare = |word: String| match word.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').unwrap_or(rest).to_owned(),
        None => word,
    };
    words.into_iter().map(|word| bare(word).into()).collect()
}

/// A line of protocol 16.1 after the `--`, and what it has to lead to.
struct Line {
    words: String,
    overlays: bool,
    wrapped: Wrapped,
    has_console: bool,
}

/// The lines of both hosts of 2026, each optional part on and off.
fn lines_of_2026() -> Vec<Line> {
    let relayed = Streams::Relayed {
        port: 109,
        outputs: Outputs::Stderr,
    };
    let old = [
        ("", once(None, None)),
        ("-o 109 ", once(Some(109), None)),
        ("-e 109 ", once(None, Some(109))),
        ("-o 109 -e 109 ", once(Some(109), Some(109))),
    ];
    let new = [("-e 109 ", once(None, Some(109))), ("-r -e 109 ", relayed)];
    let wrappers = old
        .map(|wrapper| (false, wrapper))
        .into_iter()
        .chain(new.map(|wrapper| (true, wrapper)));
    let mut lines = Vec::new();
    for (is_new, (ports, streams)) in wrappers {
        for parts in 0..64 {
            let part = |bit: u32, text| if parts & 1 << bit == 0 { "" } else { text };
            let flags = [
                "-v4 -log-format json -loglevel info",
                part(0, " -disable-time-sync"),
                part(1, " -scrub-logs=false"),
                part(2, " -core-dump-location /run/core.%p"),
                part(3, " -newer 1 --other=2 -third"),
            ];
            let flags = flags.concat();
            let program = format!("/bin/vsockexec {ports}/bin/gcs {flags}");
            let has_console = parts & 1 << 5 != 0;
            let start = match (has_console, is_new) {
                (false, _) => program,
                (true, false) => format!("sh -c \"{program} & exec sh\""),
                (true, true) => format!("sh -c\"{program}& exec sh\""),
            };
            lines.push(Line {
                words: format!("-e 1 {}{start}", part(4, "-w ")),
                overlays: parts & 1 << 4 != 0,
                has_console,
                wrapped: Wrapped {
                    streams: streams.clone(),
                    args: list(&flags),
                    unknown: Vec::new(),
                },
            });
        }
    }
    lines
}

#[test]
fn every_line_of_the_hosts_of_2026_is_our_service() {
    let lines = lines_of_2026();
    assert_eq!(lines.len(), 6 * 64);
    for line in lines {
        let boot = parse_in(&kernel_words(&line.words), false).expect(&line.words);
        let wanted = Boot {
            overlays: line.overlays,
            ..service(Some(1), line.wrapped.clone())
        };
        assert_eq!(boot, wanted, "{}", line.words);
        let flags = gcs::config::Flags::parse(&line.wrapped.args).expect(&line.words);
        assert!(flags.v4, "{}", line.words);
    }
}

#[test]
fn a_shell_that_is_there_gets_the_line_of_a_console() {
    for line in lines_of_2026().iter().filter(|line| line.has_console) {
        let boot = parse_in(&kernel_words(&line.words), true).expect(&line.words);
        let Command::Program(program) = boot.command else {
            panic!("{} starts no program", line.words);
        };
        let [name, flag, text] = &program[..] else {
            panic!("{} is {program:?}", line.words);
        };
        assert!(name == "sh" && flag == "-c", "{program:?}");
        let text = text.to_str().expect("text");
        assert!(text.starts_with("/bin/vsockexec "), "{text}");
        assert!(text.ends_with("& exec sh") && !text.contains('"'), "{text}");
    }
}

#[test]
fn the_other_forms_of_the_hosts_line() {
    for (line, wrapped) in [
        (
            format!("-e 1 /bin/vsockexec -e109 /bin/gcs {GCS}"),
            logged(),
        ),
        (
            format!("-e1 -- /bin/vsockexec /bin/gcs {GCS}"),
            with(Streams::default()),
        ),
        (format!("-e 1 gcs {GCS}"), with(Streams::default())),
    ] {
        assert_eq!(parse(&line), Ok(service(Some(1), wrapped)), "{line}");
    }
}

#[test]
fn relayed_streams_have_one_port() {
    use Outputs::{Both, Stderr, Stdout};
    for (line, port, outputs) in [
        ("-r -e 109 prog", 109, Stderr),
        ("-re109 prog", 109, Stderr),
        ("-o 5 -r prog", 5, Stdout),
        ("-r -i 4 -o 5 -e 6 prog", 6, Both),
    ] {
        let wrapped = wrapped(&list(line)).expect(line);
        assert_eq!(
            wrapped.streams,
            Streams::Relayed { port, outputs },
            "{line}"
        );
    }
    for line in ["-r prog", "-r -i 4 prog"] {
        assert_eq!(
            wrapped(&list(line)),
            Err(ArgError::NothingToRelay),
            "{line}"
        );
    }
}

#[test]
fn options_of_newer_hosts_are_passed_over_and_named() {
    let line = format!("-x -e 1 -y7 -z 8 --long=9 10 /bin/vsockexec -q -e 109 -n 5 /bin/gcs {GCS}");
    let boot = parse(&line).expect("only unknown options");
    assert_eq!(boot.unknown, ["-x", "-y7", "-z 8", "--long=9 10"]);
    let Command::Service(wrapped) = boot.command else {
        panic!("{boot:?}");
    };
    assert_eq!(wrapped.unknown, ["-q", "-n 5"]);
    assert_eq!(
        (wrapped.streams, wrapped.args),
        (logged().streams, logged().args)
    );
    // A known letter before an unknown one counts.
    let boot = parse("-wxe 7 prog").expect("only unknown options");
    assert_eq!((boot.overlays, boot.entropy), (true, None));
    assert_eq!(boot.unknown, ["-xe 7"]);
}

#[test]
fn odd_words_are_no_reason_to_stop() {
    let many = "-q 1 ".repeat(200);
    for line in [
        format!("{many}-e 1 /bin/vsockexec {many}-e 109 /bin/gcs {GCS}"),
        format!("-\u{1}\u{7f} -e 1 /bin/vsockexec -\u{2} -e 109 /bin/gcs {GCS}"),
    ] {
        let Ok(Boot { command, .. }) = parse(&line) else {
            panic!("{line:?} is refused");
        };
        let Command::Service(wrapped) = command else {
            panic!("{line:?} is {command:?}");
        };
        assert_eq!(wrapped.streams, logged().streams);
    }
    // An empty word is no option, and no program either.
    let words = ["-e", "1", ""].map(OsString::from);
    let boot = parse_in(&words, true).expect("a program without a name");
    assert_eq!(boot.command, Command::Program(vec![OsString::new()]));
    let bytes = OsStr::from_bytes(b"-\xff\xfe").to_owned();
    let boot = parse_in(&[bytes, "prog".into()], true).expect("bytes that are no text");
    assert_eq!(boot.unknown.len(), 1);
}

#[test]
fn a_quote_that_is_not_closed_ends_with_the_line() {
    let inner = format!("/bin/vsockexec -e 109 /bin/gcs {GCS}");
    for line in [
        format!("-e 1 sh -c\"{inner}& exec sh"),
        format!("-e 1 sh -c\"{inner} & exec sh"),
        // A quote within splits the word where the kernel sees a blank.
        format!("-e 1 sh -c\"{inner}& echo \"a b\" & exec sh\""),
    ] {
        let words = kernel_words(&line);
        assert_eq!(
            parse_in(&words, false),
            Ok(service(Some(1), logged())),
            "{words:?}"
        );
    }
    let nothing = parse_in(&kernel_words("sh -c\"\""), false).expect("a shell with nothing to do");
    assert_eq!(
        nothing.command,
        Command::Program(vec!["sh".into(), "-c".into(), "".into()])
    );
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
        "/bin/vsockexec -r /bin/gcs",
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
        ("-e 1", "a program"),
    ] {
        let error = parse(line).expect_err(line).to_string();
        assert!(error.contains(want), "{line}: {error}");
    }
    assert_eq!(wrapped(&list("-e 109")), Err(ArgError::NoProgram));
}
