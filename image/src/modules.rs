//! The modules of a packaged kernel that a guest needs, in an order in which they can be loaded.
//!
//! ```text
//! list of names ──┬→ files, unpacked → what each depends on (.modinfo) → order → NAME.ko, `load`
//! /lib/modules/V ─┘
//! ```
//!
//! Nothing that `depmod` makes is needed, because packages leave that to the machine they are
//! installed on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};

use crate::Error;

/// Beside the modules: their names, a line each, in the order in which to load them.
pub const ORDER: &str = "load";

/// A module as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// With `_` for `-`, as the kernel writes it.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// The result for a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Each after those that it depends on.
    pub modules: Vec<Module>,
    /// Of the listed ones, those that the kernel has built in.
    pub built_in: Vec<String>,
    /// Those that are wanted and missing: the name, and what is lost without.
    pub missing: Vec<(String, String)>,
}

/// Finds the modules of `list` and what they depend on below `dir`, a kernel's `/lib/modules/V`.
///
/// A line of the list is `must NAME REASON` or `want NAME REASON`; `#` begins a comment.
///
/// # Errors
/// A line is none, a file cannot be read or is no module, or one that must be there, or that
/// another depends on, is not.
pub fn choose(dir: &Path, list: &str) -> Result<Choice, Error> {
    let mut kernel = Kernel::read(dir)?;
    let mut choice = Choice::default();
    let lines = list.lines().enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        let (Some(level @ ("must" | "want")), Some(name), Some(reason)) =
            (words.next(), words.next(), words.next())
        else {
            let number = number + 1;
            return Err(wrong(format!(
                "line {number} of the list is not `must|want NAME REASON`: {line}"
            )));
        };
        let name = normal(name);
        if kernel.built_in.contains(&name) {
            choice.built_in.push(name);
        } else if kernel.files.contains_key(&name) {
            kernel.add(&name, &mut choice.modules)?;
        } else if level == "want" {
            choice.missing.push((name, reason.to_owned()));
        } else {
            return Err(wrong(format!(
                "the kernel has no {name}, as a module or built in: {reason}"
            )));
        }
    }
    Ok(choice)
}

fn wrong(why: String) -> Error {
    Error::Archive(format!("the kernel's modules: {why}"))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

struct Kernel {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    /// Chosen already, or being chosen.
    seen: BTreeSet<String>,
}

impl Kernel {
    fn read(dir: &Path) -> Result<Self, Error> {
        let list = dir.join("modules.builtin");
        let text = std::fs::read_to_string(&list)
            .map_err(Error::io("cannot read the kernel's list", &list))?;
        let built_in = text
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        let mut files = BTreeMap::new();
        let mut todo = vec![dir.to_owned()];
        while let Some(dir) = todo.pop() {
            let failed = |error| Error::io("cannot list", &dir)(error);
            for entry in std::fs::read_dir(&dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                // Links lead out of the package (`build`, `source`).
                if entry.file_type().map_err(failed)?.is_dir() {
                    todo.push(entry.path());
                } else if let Some(name) = module_name(&entry.path()) {
                    files.insert(name, entry.path());
                }
            }
        }
        Ok(Self {
            files,
            built_in,
            seen: BTreeSet::new(),
        })
    }

    /// Adds a module after those that it depends on.
    fn add(&mut self, name: &str, to: &mut Vec<Module>) -> Result<(), Error> {
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name).cloned() else {
            return Err(wrong(format!(
                "{name}, on which another depends, is not there"
            )));
        };
        let bytes = unpacked(&path)?;
        let needs =
            Needs::read(&bytes).map_err(|why| wrong(format!("{}: {why}", path.display())))?;
        for need in needs.hard {
            if !self.built_in.contains(&need) {
                self.add(&need, to)?;
            }
        }
        for need in needs.soft {
            if self.files.contains_key(&need) {
                self.add(&need, to)?;
            }
        }
        to.push(Module {
            name: name.to_owned(),
            bytes,
        });
        Ok(())
    }
}

/// The module that a file holds, by its name: `a-b.ko`, packed or not.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let endings = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];
    let stem = endings
        .iter()
        .find_map(|ending| name.strip_suffix(ending))?;
    Some(normal(stem))
}

fn unpacked(path: &Path) -> Result<Vec<u8>, Error> {
    let file = std::fs::read(path).map_err(Error::io("cannot read", path))?;
    let mut bytes = Vec::new();
    let failed = |why: String| wrong(format!("{} cannot be unpacked: {why}", path.display()));
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => lzma_rs::xz_decompress(&mut file.as_slice(), &mut bytes)
            .map_err(|e| failed(e.to_string()))?,
        Some("zst") => {
            bytes = zstd::decode_all(file.as_slice()).map_err(|e| failed(e.to_string()))?
        }
        Some("gz") => {
            flate2::read::GzDecoder::new(file.as_slice())
                .read_to_end(&mut bytes)
                .map_err(|e| failed(e.to_string()))?;
        }
        _ => bytes = file,
    }
    Ok(bytes)
}

/// What a module says about itself.
#[derive(Default)]
struct Needs {
    hard: Vec<String>,
    /// Loaded before it when they are there.
    soft: Vec<String>,
}

impl Needs {
    fn read(module: &[u8]) -> Result<Self, String> {
        let file =
            object::File::parse(module).map_err(|error| format!("it is no module: {error}"))?;
        let section = file
            .section_by_name(".modinfo")
            .ok_or("it is no module: it has no .modinfo")?;
        let facts = section.data().map_err(|error| error.to_string())?;
        let mut needs = Self::default();
        for fact in facts.split(|byte| *byte == 0) {
            let fact = String::from_utf8_lossy(fact);
            if let Some(names) = fact.strip_prefix("depends=") {
                needs
                    .hard
                    .extend(names.split(',').filter(|name| !name.is_empty()).map(normal));
            } else if let Some(words) = fact.strip_prefix("softdep=") {
                let words = words.split_whitespace().skip_while(|word| *word != "pre:");
                needs.soft.extend(
                    words
                        .skip(1)
                        .take_while(|word| *word != "post:")
                        .map(normal),
                );
            }
        }
        Ok(needs)
    }
}
