//! Profiles: an image as a table of paths. A profile names inputs (`init`) and values (`{commit}`),
//! never a place on the machine that builds it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::tree::{Kind, Node, Tree};
use crate::Error;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    name: String,
    /// For the reader of the profile.
    #[serde(default, rename = "note")]
    _note: String,
    /// Another profile, beside this one, whose entries come first.
    base: Option<PathBuf>,
    entries: Vec<Row>,
}

/// One line of the table. The member that it has says what it is.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Row {
    /// Links for every applet that an input lists, except where the profile has a file already.
    Applets {
        path: String,
        applets: String,
        link: String,
    },
    /// Takes away what the base has at this path, with the reason.
    Absent {
        path: String,
        absent: String,
    },
    Directory {
        path: String,
        dir: Mode,
    },
    File {
        path: String,
        file: String,
        mode: Mode,
    },
    Text {
        path: String,
        text: String,
        mode: Option<Mode>,
    },
    /// All files below an input that is a directory, readable.
    Below {
        path: String,
        below: String,
    },
    Same {
        path: String,
        same: String,
    },
    Symlink {
        path: String,
        link: String,
    },
    Char {
        path: String,
        char: (u32, u32),
        mode: Mode,
    },
    Block {
        path: String,
        block: (u32, u32),
        mode: Mode,
    },
}

/// Permission bits, written in octal.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Mode(pub(crate) u32);

impl TryFrom<String> for Mode {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        u32::from_str_radix(&text, 8)
            .map(Mode)
            .map_err(|_| format!("mode {text:?} is no octal number"))
    }
}

/// What a profile is filled with.
#[derive(Debug, Default)]
pub struct Fill {
    /// Files by the name the profile uses.
    pub inputs: BTreeMap<String, PathBuf>,
    /// What stands for `{name}` in texts.
    pub values: BTreeMap<String, String>,
}

/// Reads a profile, and those it is based on, into a checked tree. Returns its name too.
///
/// # Errors
/// A file cannot be read, or an entry is wrong: the entry and the problem are named.
pub fn load(path: &Path, fill: &Fill) -> Result<(String, Tree), Error> {
    let mut reading = Reading {
        fill,
        tree: Tree::default(),
        applets: Vec::new(),
    };
    let name = reading.profile(path, 0)?;
    let Reading {
        mut tree, applets, ..
    } = reading;
    for Applets { path, words, link } in applets {
        for word in words.split_whitespace() {
            let path = format!("{path}/{word}");
            if !tree.contains(&path) {
                let node = Node {
                    kind: Kind::Symlink(link.clone()),
                    mode: 0o777,
                };
                tree.add(&path, node)
                    .map_err(|problem| at(&name, &path, problem))?;
            }
        }
    }
    tree.check()
        .map_err(|(path, problem)| at(&name, &path, problem))?;
    Ok((name, tree))
}

fn at(profile: &str, path: &str, problem: String) -> Error {
    Error::Entry {
        profile: profile.into(),
        path: path.into(),
        problem,
    }
}

/// Links that are made last, where nothing else has the name.
struct Applets {
    path: String,
    words: String,
    link: String,
}

/// A profile while it is read.
struct Reading<'a> {
    fill: &'a Fill,
    tree: Tree,
    applets: Vec<Applets>,
}

impl Reading<'_> {
    /// Reads what the profile is based on, then its own rows. Returns its name.
    fn profile(&mut self, path: &Path, depth: usize) -> Result<String, Error> {
        let text =
            std::fs::read_to_string(path).map_err(Error::io("cannot read the profile", path))?;
        let profile: Profile = serde_json::from_str(&text).map_err(|source| Error::Syntax {
            path: path.into(),
            source,
        })?;
        if let Some(base) = &profile.base {
            if depth == 8 {
                let problem = "profiles are based on each other";
                return Err(at(&profile.name, "base", problem.into()));
            }
            self.profile(&path.with_file_name(base), depth + 1)?;
        }
        for row in profile.entries {
            self.row(&profile.name, row)?;
        }
        Ok(profile.name)
    }

    fn row(&mut self, profile: &str, row: Row) -> Result<(), Error> {
        let wrong = |path: &str, problem| at(profile, path, problem);
        let (path, kind, mode) = match row {
            Row::Applets {
                path,
                applets,
                link,
            } => {
                let words = self.file(profile, &path, &applets)?;
                let words = String::from_utf8_lossy(&words).into_owned();
                self.applets.push(Applets { path, words, link });
                return Ok(());
            }
            Row::Below { path, below } => {
                let dir = self.input(profile, &path, &below, "DIRECTORY")?.clone();
                return add_below(&mut self.tree, &path, &dir, &wrong);
            }
            Row::Absent { path, absent } => {
                if absent.is_empty() {
                    return Err(wrong(&path, "`absent` has to say why".into()));
                }
                let nothing = || wrong(&path, "the base has nothing there".into());
                return self.tree.remove(&path).map(drop).ok_or_else(nothing);
            }
            Row::Directory { path, dir } => (path, Kind::Directory, dir.0),
            Row::File { path, file, mode } => {
                let bytes = self.file(profile, &path, &file)?;
                (path, Kind::File(bytes), mode.0)
            }
            Row::Text { path, text, mode } => {
                let text = substitute(&text, &self.fill.values).map_err(|p| wrong(&path, p))?;
                let mode = mode.map_or(0o644, |mode| mode.0);
                (path, Kind::File(text.into_bytes()), mode)
            }
            Row::Same { path, same } => {
                let first = self.tree.iter().find(|(at, _)| *at == same);
                let mode = first.map_or(0, |(_, node)| node.mode);
                (path, Kind::Same(same), mode)
            }
            Row::Symlink { path, link } => (path, Kind::Symlink(link), 0o777),
            Row::Char { path, char, mode } => (path, Kind::Char(char.0, char.1), mode.0),
            Row::Block { path, block, mode } => (path, Kind::Block(block.0, block.1), mode.0),
        };
        self.tree
            .add(&path, Node { kind, mode })
            .map_err(|problem| wrong(&path, problem))
    }

    /// The input that the entry at `path` asks for by name.
    fn input(&self, profile: &str, path: &str, name: &str, what: &str) -> Result<&PathBuf, Error> {
        self.fill.inputs.get(name).ok_or_else(|| {
            let problem = format!("no input {name:?} was given (--input {name}={what})");
            at(profile, path, problem)
        })
    }

    fn file(&self, profile: &str, path: &str, name: &str) -> Result<Vec<u8>, Error> {
        let file = self.input(profile, path, name, "FILE")?;
        std::fs::read(file).map_err(Error::io("cannot read the input", file))
    }
}

/// Adds a directory and what is in it. Modes are fixed and do not depend on the machine's umask.
fn add_below(
    tree: &mut Tree,
    path: &str,
    dir: &Path,
    wrong: &impl Fn(&str, String) -> Error,
) -> Result<(), Error> {
    let mut add = |kind, mode| {
        tree.add(path, Node { kind, mode })
            .map_err(|problem| wrong(path, problem))
    };
    let failed = |error| Error::io("cannot list the input", dir)(error);
    add(Kind::Directory, 0o755)?;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| wrong(path, "a name below is not UTF-8".into()))?;
        let (path, file) = (format!("{path}/{name}"), entry.path());
        if entry.file_type().map_err(failed)?.is_dir() {
            add_below(tree, &path, &file, wrong)?;
            continue;
        }
        let bytes = std::fs::read(&file).map_err(Error::io("cannot read the input", &file))?;
        let node = Node {
            kind: Kind::File(bytes),
            mode: 0o644,
        };
        tree.add(&path, node)
            .map_err(|problem| wrong(&path, problem))?;
    }
    Ok(())
}

/// Replaces each `{name}` by its value.
pub(crate) fn substitute(text: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let Some(length) = rest[open..].find('}') else {
            break;
        };
        let name = &rest[open + 1..open + length];
        let value = values
            .get(name)
            .ok_or_else(|| format!("no value {name:?} was given (--value {name}=TEXT)"))?;
        out.push_str(&rest[..open]);
        out.push_str(value);
        rest = &rest[open + length + 1..];
    }
    out.push_str(rest);
    Ok(out)
}
