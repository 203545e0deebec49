//! Runs the commands of a block in one shell, and compares what they print with the page.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::page::Command;

/// For one command; some boot a VM under emulation.
const LIMIT: Duration = Duration::from_secs(300);

/// Before the commands. Make runs the recipe of the target it is asked for and nothing before it:
/// what the tests work on is built, and another test may be using it. It is nobody's sub-make, as
/// for a reader: below `make test` it would say `make[1]`.
const PRELUDE: &str = r#"
exec 3>&1
unset MAKELEVEL MAKEFLAGS MFLAGS MAKEOVERRIDES
make() { command make -C "$TOP" --no-print-directory -o build -o kernel "$@"; }
"#;

/// A directory from which `out/` and the folders of the repository are found.
pub fn directory(root: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let link =
        |from: &Path, name: &Path| std::os::unix::fs::symlink(from, dir.path().join(name)).unwrap();
    link(&root.join("target"), "target".as_ref());
    // The tool under test, not one that `make host` built some time ago.
    std::fs::create_dir(dir.path().join("out")).unwrap();
    link(env!("CARGO_BIN_EXE_uvm").as_ref(), "out/uvm".as_ref());
    for entry in std::fs::read_dir(root.join("out")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "uvm" {
            link(&entry.path(), &Path::new("out").join(entry.file_name()));
        }
    }
    dir
}

/// Runs the commands in order; the error says which one went wrong, and how.
pub fn run(dir: &Path, root: &Path, commands: &[Command]) -> Result<(), String> {
    let mut shell = Shell::start(dir, root);
    for (number, command) in commands.iter().enumerate() {
        let said = dir.join(format!(".said.{number}"));
        let in_background = command.line.trim_end().ends_with('&');
        let begin = Instant::now();
        let status = shell.run(&command.line, &said)?;
        loop {
            let text = String::from_utf8_lossy(&std::fs::read(&said).unwrap()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let matches = same(&command.prints, &lines);
            if matches && status == 0 {
                break;
            }
            // What runs in the background has said all that the page shows when it has said it.
            if !in_background || begin.elapsed() > LIMIT {
                let shown = command.prints.join("\n");
                return Err(format!(
                    "$ {}\nends with {status} and prints\n{text}\nThe page says\n{shown}",
                    command.line
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Whether the lines are those of the page.
fn same(page: &[String], lines: &[&str]) -> bool {
    let Some((first, rest)) = page.split_first() else {
        return lines.iter().all(|line| line.trim().is_empty());
    };
    if first.trim() == "..." {
        return (0..=lines.len()).any(|from| same(rest, &lines[from..]));
    }
    lines
        .split_first()
        .is_some_and(|(line, after)| same_line(first, line) && same(rest, after))
}

/// Whether one line is that of the page: `...` is any text, a number any number.
fn same_line(page: &str, line: &str) -> bool {
    same_text(&plain(page), &plain(line))
}

fn same_text(page: &str, text: &str) -> bool {
    let Some((before, after)) = page.split_once("...") else {
        return page == text;
    };
    let Some(rest) = text.strip_prefix(before) else {
        return false;
    };
    let mut places = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    places.any(|at| same_text(after, &rest[at..]))
}

/// Numbers become 0 and blanks one blank.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    for c in line.trim().chars() {
        let c = match c {
            '0'..='9' => '0',
            c if c.is_whitespace() => ' ',
            c => c,
        };
        if !((c == '0' || c == ' ') && plain.ends_with(c)) {
            plain.push(c);
        }
    }
    plain
}

#[test]
fn a_page_is_compared_with_what_was_printed() {
    let page = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(same(&page("Mem:  234 21"), &["  Mem:   7   1099"]));
    assert!(!same(&page("Mem:  234 21"), &["  Mem:   7"]));
    assert!(same(&page("a\n...\nz"), &["a", "b", "c", "z"]));
    assert!(!same(&page("a\n...\nz"), &["a", "b", "c"]));
    assert!(!same(&page("a"), &["a", "b"]));
    assert!(same(&page("x ... z"), &["x and y and z"]));
    assert!(same(&page("x ... z"), &["x and z and z"]));
    assert!(!same(&page("x ... z"), &["x and y"]));
    assert!(same(&page("x..."), &["x and y"]));
    assert!(!same(&page(""), &["unexpected"]));
}

/// A shell that takes commands from its stdin and says on its stdout how each ended.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    ended: Receiver<String>,
}

impl Shell {
    fn start(dir: &Path, root: &Path) -> Self {
        let mut child = std::process::Command::new("bash")
            .current_dir(dir)
            .env("TOP", root)
            .env("UVM_LAYER_CACHE", root.join("target/layers"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().expect("it was piped");
        let stdout = BufReader::new(child.stdout.take().expect("it was piped"));
        stdin.write_all(PRELUDE.as_bytes()).unwrap();
        let (sender, ended) = mpsc::channel();
        // A read has no deadline; the channel has one.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            stdin,
            ended,
        }
    }

    /// The exit status of the command, whose output goes to the file `said`.
    fn run(&mut self, line: &str, said: &Path) -> Result<i32, String> {
        let quoted = shlex::try_quote(line).map_err(|e| e.to_string())?;
        let to = said.display();
        writeln!(
            self.stdin,
            "eval {quoted} >{to} 2>&1 </dev/null 3>&-; echo $? >&3"
        )
        .unwrap();
        let status = self.ended.recv_timeout(LIMIT).map_err(|_| {
            let text = std::fs::read_to_string(said).unwrap_or_default();
            format!("$ {line}\ndoes not end within {LIMIT:?} and has printed\n{text}")
        })?;
        status
            .parse()
            .map_err(|_| format!("$ {line}\nended the shell's talk with {status:?}"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // A tool that gets a signal ends its VM too.
        writeln!(self.stdin, "kill $(jobs -p) 2>/dev/null; wait; exit").ok();
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
