//! The small programs of other systems that a host runs in the VM by itself (protocol 11.4): it looks
//! for the disk that it has plugged in with `test -d DIR`, until that says yes, and with `ls DIR`. An
//! image with a shell has its own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Exit codes of test(1): yes, no.
const YES: i32 = 0;
const NO: i32 = 1;
/// The exit code of test(1) and ls(1) for what they do not understand or find.
pub const TROUBLE: i32 = 2;

/// A question about one path.
type Question = fn(&Path) -> bool;

fn of_file(path: &Path, is: fn(&fs::Metadata) -> bool) -> bool {
    fs::metadata(path).is_ok_and(|meta| is(&meta))
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}

/// The questions about files that need no more than stat(2).
#[rustfmt::skip]
static QUESTIONS: &[(&str, Question)] = &[
    ("-b", |path| of_file(path, |meta| meta.file_type().is_block_device())),
    ("-c", |path| of_file(path, |meta| meta.file_type().is_char_device())),
    ("-d", |path| of_file(path, fs::Metadata::is_dir)),
    ("-e", |path| of_file(path, |_| true)),
    ("-f", |path| of_file(path, fs::Metadata::is_file)),
    ("-h", is_link),
    ("-L", is_link),
    ("-p", |path| of_file(path, |meta| meta.file_type().is_fifo())),
    ("-s", |path| of_file(path, |meta| meta.len() > 0)),
    ("-S", |path| of_file(path, |meta| meta.file_type().is_socket())),
];

/// The command `test`. The error is for people.
///
/// # Errors
/// The expression is not one of those of this table, negated or not, or a single word.
pub fn test(args: &[OsString]) -> Result<i32, String> {
    let answer = match args {
        [] => false,
        [word] => !word.is_empty(),
        [not, rest @ ..] if not == "!" => return test(rest).map(|code| YES + NO - code),
        [option, operand] if option == "-n" => !operand.is_empty(),
        [option, operand] if option == "-z" => operand.is_empty(),
        [option, path] => {
            let (_, question) = QUESTIONS
                .iter()
                .find(|(name, _)| option == name)
                .ok_or_else(|| format!("{option:?} is no question that this program knows"))?;
            question(Path::new(path))
        }
        _ => return Err(format!("{args:?} is no expression that this program knows")),
    };
    Ok(if answer { YES } else { NO })
}

/// The command `ls`, one name a line, as to a pipe: `ls [-1aA] [PATH]...`. Returns whether all paths
/// could be listed; `complain` is told which could not.
///
/// # Errors
/// Another option, or nobody takes the output.
pub fn ls(
    args: &[OsString],
    out: &mut impl Write,
    mut complain: impl FnMut(String),
) -> Result<bool, String> {
    let (options, paths): (Vec<&OsString>, Vec<&OsString>) = args
        .iter()
        .partition(|arg| arg.len() > 1 && arg.as_bytes().starts_with(b"-"));
    let letters = options.iter().flat_map(|word| &word.as_bytes()[1..]);
    let mut all = false;
    for letter in letters {
        match letter {
            b'1' => {}
            b'a' | b'A' => all = true,
            other => return Err(format!("there is no option -{}", char::from(*other))),
        }
    }
    let here = OsString::from(".");
    let paths = if paths.is_empty() { vec![&here] } else { paths };
    let mut complete = true;
    for (index, path) in paths.iter().enumerate() {
        let names = match names(Path::new(path), all) {
            Ok(names) => names,
            Err(error) => {
                complain(format!("cannot access {path:?}: {error}"));
                complete = false;
                continue;
            }
        };
        let mut text = Vec::new();
        if paths.len() > 1 && Path::new(path).is_dir() {
            let gap = if index == 0 { "" } else { "\n" };
            text.extend_from_slice(gap.as_bytes());
            text.extend_from_slice(path.as_bytes());
            text.extend_from_slice(b":\n");
        }
        for name in names {
            text.extend_from_slice(name.as_bytes());
            text.push(b'\n');
        }
        out.write_all(&text).map_err(|error| error.to_string())?;
    }
    Ok(complete)
}

/// The names in a directory in the order of their bytes, or the path itself when it is none.
fn names(path: &Path, all: bool) -> io::Result<Vec<OsString>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.as_os_str().to_owned()]);
    }
    let hidden = |name: &OsStr| name.as_bytes().starts_with(b".");
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if all || !hidden(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["b", "a", ".hidden"] {
            fs::write(dir.path().join(name), "").expect("a file");
        }
        fs::create_dir(dir.path().join("c")).expect("a directory");
        fs::write(dir.path().join("c/full"), "x").expect("a file");
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).expect("a link");
        dir
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "no reaper runs in a test")]
    fn test_answers_as_the_program_of_others() {
        let _children = crate::sys::CHILDREN.lock();
        let dir = tree();
        for expression in [
            "-d DIR",
            "-d DIR/c",
            "-d DIR/a",
            "-d DIR/none",
            "-d DIR/a/x",
            "-e DIR/a",
            "-e DIR/link",
            "-h DIR/link",
            "-L DIR/a",
            "-f DIR/a",
            "-f DIR/c",
            "-s DIR/c/full",
            "-s DIR/a",
            "-c /dev/null",
            "-b /dev/null",
            "! -d DIR",
            "! -d DIR/a",
            "-n x",
            "-z x",
            "word",
            "-S DIR/a",
            "-p DIR/a",
            "-q DIR",
            "a b c",
        ] {
            let expression = expression.replace("DIR", dir.path().to_str().expect("text"));
            let script = format!("test {expression} 2>/dev/null");
            let status = std::process::Command::new("sh")
                .args(["-c", &script])
                .output();
            let wanted = status.expect("a shell").status.code();
            let got = test(&words(&expression)).unwrap_or(TROUBLE);
            assert_eq!(Some(got), wanted, "{expression}");
        }
        assert_eq!(test(&[]), Ok(NO));
        assert_eq!(test(&["".into()]), Ok(NO));
    }

    #[test]
    fn ls_lists_names_one_a_line() {
        let dir = tree();
        let at = dir.path().to_str().expect("text").to_owned();
        let list = |args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            let (mut out, mut said) = (Vec::new(), Vec::new());
            let done = ls(&args, &mut out, |text| said.push(text));
            (done, String::from_utf8(out).expect("text"), said)
        };
        let file = format!("{at}/a");
        let missing = format!("{at}/none");
        for (args, text) in [
            (&[at.as_str()][..], "a\nb\nc\nlink\n".to_owned()),
            (&["-1A", &at], ".hidden\na\nb\nc\nlink\n".to_owned()),
            (&[&file], format!("{file}\n")),
        ] {
            assert_eq!(list(args), (Ok(true), text, vec![]), "{args:?}");
        }
        let (done, text, said) = list(&[&missing, &file]);
        assert_eq!((done, text), (Ok(false), format!("{file}\n")));
        assert!(said[0].contains("No such file"), "{said:?}");
        assert!(list(&["-l", &at]).0.is_err());
    }
}
