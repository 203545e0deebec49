//! The shipping set: files gathered by a list, with a manifest and checksums, all or nothing.
//!
//! ```text
//! dist.json (what, from where, origin) ─┐
//! files below the repository ───────────┼→ read all → manifest.json, SHA256SUMS → new directory → rename
//! initrd.manifest.json ─────────────────┘
//! ```
//!
//! The list is data: a further file is one more row.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::manifest::{Entry, Manifest, What};
use crate::profile::{substitute, Mode};
use crate::{json_text, sha256, Error};

const MANIFEST: &str = "manifest.json";
const SUMS: &str = "SHA256SUMS";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// For the reader of the list.
    #[serde(default, rename = "note")]
    _note: String,
    /// The initrd whose content is that of every root file system in the set, and its manifest.
    initrd: String,
    artifacts: Vec<Artifact>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Artifact {
    /// Where it is in the set.
    path: String,
    /// Where it is in the repository, after a build.
    from: String,
    mode: Mode,
    /// What it is made from; `{name}` stands for a value.
    origin: String,
    /// Left out where it was not built.
    #[serde(default)]
    optional: bool,
}

/// `manifest.json` of the set.
#[derive(Debug, Serialize)]
struct Contents<'a> {
    values: &'a BTreeMap<String, String>,
    files: Vec<Shipped>,
    /// What is in the initrd and in the root file systems.
    root: Vec<RootEntry>,
}

#[derive(Debug, Serialize)]
struct Shipped {
    path: String,
    mode: String,
    size: u64,
    sha256: String,
    origin: String,
}

#[derive(Debug, Serialize)]
struct RootEntry {
    #[serde(flatten)]
    entry: Entry,
    origin: String,
}

/// A file of the new directory.
struct Staged {
    path: String,
    mode: u32,
    bytes: Vec<u8>,
}

/// Gathers what `list` names below `top` in `output`, which is replaced as a whole.
///
/// # Errors
/// The list is wrong, a file is not there or is not what its manifest says; `output` is then as
/// it was.
pub fn assemble(
    list: &Path,
    top: &Path,
    values: &BTreeMap<String, String>,
    epoch: u32,
    output: &Path,
) -> Result<(), Error> {
    let text = fs::read(list).map_err(Error::io("cannot read the list", list))?;
    let list: List = serde_json::from_slice(&text).map_err(|source| Error::Syntax {
        path: list.into(),
        source,
    })?;
    let (mut files, mut shipped) = gather(&list.artifacts, top, values)?;
    shipped.sort_by(|one, other| one.path.cmp(&other.path));
    let contents = Contents {
        values,
        files: shipped,
        root: root(&top.join(&list.initrd), values)?,
    };
    files.push(Staged {
        path: MANIFEST.into(),
        mode: 0o644,
        bytes: json_text(MANIFEST, &contents)?,
    });
    files.sort_by(|one, other| one.path.cmp(&other.path));
    let sums: String = files
        .iter()
        .map(|file| format!("{}  {}\n", sha256(&file.bytes), file.path))
        .collect();
    files.push(Staged {
        path: SUMS.into(),
        mode: 0o644,
        bytes: sums.into_bytes(),
    });
    replace(output, &files, epoch)
}

/// Reads the files that the list names, and says of each what it is.
fn gather(
    artifacts: &[Artifact],
    top: &Path,
    values: &BTreeMap<String, String>,
) -> Result<(Vec<Staged>, Vec<Shipped>), Error> {
    let mut files = Vec::new();
    let mut shipped = Vec::new();
    for artifact in artifacts {
        let wrong = |problem: String| Error::Entry {
            profile: "dist".into(),
            path: artifact.path.clone(),
            problem,
        };
        let plain = |path: &str| {
            let mut parts = Path::new(path).components();
            !path.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        if !plain(&artifact.path) || !plain(&artifact.from) {
            return Err(wrong("paths must be relative and plain".into()));
        }
        if [MANIFEST, SUMS].contains(&artifact.path.as_str())
            || files.iter().any(|file: &Staged| file.path == artifact.path)
        {
            return Err(wrong("the path is there already".into()));
        }
        let from = top.join(&artifact.from);
        if artifact.optional && !from.exists() {
            continue;
        }
        let bytes = fs::read(&from).map_err(Error::io("cannot read", &from))?;
        let origin = substitute(&artifact.origin, values).map_err(wrong)?;
        shipped.push(Shipped {
            path: artifact.path.clone(),
            mode: format!("{:04o}", artifact.mode.0),
            size: bytes.len() as u64,
            sha256: sha256(&bytes),
            origin,
        });
        files.push(Staged {
            path: artifact.path.clone(),
            mode: artifact.mode.0,
            bytes,
        });
    }
    Ok((files, shipped))
}

/// What is in the root file system, and what each part is made from.
fn root(initrd: &Path, values: &BTreeMap<String, String>) -> Result<Vec<RootEntry>, Error> {
    let path = initrd.with_extension("manifest.json");
    let text = fs::read(&path).map_err(Error::io("cannot read the manifest", &path))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|source| Error::Syntax { path, source })?;
    manifest.verify(&fs::read(initrd).map_err(Error::io("cannot read", initrd))?)?;
    let program = substitute("crate init, commit {commit}", values).map_err(Error::Archive)?;
    let profile = format!("image/profiles/{}.json", manifest.profile);
    let origin = |entry: &Entry| match &entry.what {
        What::File { .. } if entry.path == "/init" => program.clone(),
        What::File {
            same: Some(same), ..
        } if same == "/init" => program.clone(),
        _ => profile.clone(),
    };
    let entries = manifest.entries.into_iter();
    Ok(entries
        .map(|entry| RootEntry {
            origin: origin(&entry),
            entry,
        })
        .collect())
}

/// Puts a directory with these files in the place of `output`.
fn replace(output: &Path, files: &[Staged], epoch: u32) -> Result<(), Error> {
    let parent = output.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io("cannot create", parent))?;
    // It lies beside `output`, so that it can be renamed. It is removed when anything fails.
    let work = tempfile::Builder::new()
        .prefix(".dist-")
        .tempdir_in(parent)
        .map_err(Error::io("cannot work in", parent))?;
    let (new, old) = (work.path().join("new"), work.path().join("old"));
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch.into());
    let mode = |path: &Path, mode: u32| {
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(Error::io("cannot set the mode of", path))
    };
    fs::create_dir(&new).map_err(Error::io("cannot create", &new))?;
    mode(&new, 0o755)?;
    for file in files {
        let path = new.join(&file.path);
        for dir in path.ancestors().skip(1).take_while(|dir| *dir != new) {
            fs::create_dir_all(dir).map_err(Error::io("cannot create", dir))?;
            mode(dir, 0o755)?;
        }
        fs::write(&path, &file.bytes).map_err(Error::io("cannot write", &path))?;
        mode(&path, file.mode)?;
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(time).and_then(|()| file.sync_all()))
            .map_err(Error::io("cannot write", &path))?;
    }
    let moved =
        |from: &Path, to: &Path| fs::rename(from, to).map_err(Error::io("cannot put in place", to));
    let there = output.symlink_metadata().is_ok();
    if there {
        moved(output, &old)?;
    }
    moved(&new, output).inspect_err(|_| {
        if there {
            // The old directory is put back. The first error is the one to report.
            fs::rename(&old, output).ok();
        }
    })
}
