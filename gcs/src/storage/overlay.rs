//! One overlay mount: read-only layers, and a writable directory above them or none.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::MsFlags;

use crate::error::Failure;
use crate::sys::mount::FsContext;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    pub target: PathBuf,
    /// The topmost first.
    pub lower: Vec<PathBuf>,
    pub upper: Option<Upper>,
}

/// Where changes go; without it the mount is read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// The ways to pass layers to the kernel. The first one that it understands is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OptionForm {
    /// One option for each layer (Linux 6.7): any number, any names.
    Appended,
    /// One option with all layers, at most 255 bytes.
    Joined,
    /// mount(2): all options together at most a page.
    Classic,
}

/// Mounts it. The error has the kernel's own message if there is one.
pub fn mount(overlay: &Overlay) -> Result<(), Failure> {
    let mut said = String::new();
    let mut refused = Errno::EINVAL;
    for way in [
        OptionForm::Appended,
        OptionForm::Joined,
        OptionForm::Classic,
    ] {
        let tried = match way {
            OptionForm::Classic => classic(overlay),
            way => by_context(overlay, way, &mut said),
        };
        match tried {
            Ok(()) => return Ok(()),
            Err(error) => refused = error,
        }
        // The kernel does not know the option or finds it too long, or lacks these calls (Linux
        // before 5.2).
        if !matches!(refused, Errno::EINVAL | Errno::E2BIG | Errno::ENOSYS) {
            break;
        }
    }
    let said = if said.is_empty() {
        said
    } else {
        format!(" ({said})")
    };
    Err(Failure::unspecified(format!(
        "cannot mount {} layers on {:?}: {}{said}",
        overlay.lower.len(),
        overlay.target,
        refused.desc(),
    )))
}

fn by_context(overlay: &Overlay, way: OptionForm, said: &mut String) -> nix::Result<()> {
    let context = FsContext::open(c"overlay")?;
    let configured = configure(&context, overlay, way);
    let attributes = match overlay.upper {
        Some(_) => 0,
        None => libc::MOUNT_ATTR_RDONLY,
    };
    let made = configured.and_then(|()| context.create(attributes));
    let done = made.and_then(|mount| mount.attach(&text(overlay.target.as_os_str().as_bytes())?));
    if done.is_err() {
        let messages = context.messages();
        if !messages.is_empty() {
            *said = messages;
        }
    }
    done
}

fn configure(context: &FsContext, overlay: &Overlay, way: OptionForm) -> nix::Result<()> {
    context.set(c"source", c"overlay")?;
    match way {
        OptionForm::Appended => {
            for layer in &overlay.lower {
                context.set(c"lowerdir+", &text(layer.as_os_str().as_bytes())?)?;
            }
        }
        OptionForm::Joined | OptionForm::Classic => {
            context.set(c"lowerdir", &text(&joined(&overlay.lower, b"\\:"))?)?;
        }
    }
    match &overlay.upper {
        Some(Upper { upper, work }) => {
            // Unlike in `lowerdir+`, a backslash escapes here too.
            context.set(c"upperdir", &text(&escaped(upper, b"\\"))?)?;
            context.set(c"workdir", &text(&escaped(work, b"\\"))?)
        }
        None => context.set_flag(c"ro"),
    }
}

fn classic(overlay: &Overlay) -> nix::Result<()> {
    let (flags, data) = classic_options(overlay);
    // The kernel silently cuts the data off at a page.
    if data.len() >= 4096 {
        return Err(Errno::E2BIG);
    }
    let data = text(&data)?;
    nix::mount::mount::<CStr, Path, CStr, CStr>(
        Some(c"overlay"),
        &overlay.target,
        Some(c"overlay"),
        flags,
        Some(&data),
    )
}

fn classic_options(overlay: &Overlay) -> (MsFlags, Vec<u8>) {
    let mut data = b"lowerdir=".to_vec();
    data.extend(joined(&overlay.lower, b"\\:,"));
    let Some(Upper { upper, work }) = &overlay.upper else {
        return (MsFlags::MS_RDONLY, data);
    };
    for (name, path) in [(",upperdir=", upper), (",workdir=", work)] {
        data.extend(name.as_bytes());
        data.extend(escaped(path, b"\\:,"));
    }
    (MsFlags::empty(), data)
}

fn joined(paths: &[PathBuf], special: &[u8]) -> Vec<u8> {
    let paths: Vec<_> = paths.iter().map(|path| escaped(path, special)).collect();
    paths.join(&b':')
}

fn escaped(path: &Path, special: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if special.contains(&byte) {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    escaped
}

fn text(bytes: &[u8]) -> nix::Result<CString> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{in_mount_namespace, Tree};
    use super::*;
    use std::fs;

    #[test]
    fn separators_in_names_are_escaped_for_the_classic_call() {
        let overlay = Overlay {
            target: "/t".into(),
            lower: vec!["/a:b".into(), "/c,d".into()],
            upper: Some(Upper {
                upper: "/u\\p".into(),
                work: "/w".into(),
            }),
        };
        let (flags, data) = classic_options(&overlay);
        assert_eq!(
            String::from_utf8(data).unwrap(),
            "lowerdir=/a\\:b:/c\\,d,upperdir=/u\\\\p,workdir=/w"
        );
        assert_eq!(flags, MsFlags::empty());
        let (flags, data) = classic_options(&Overlay {
            upper: None,
            ..overlay
        });
        assert_eq!(String::from_utf8(data).unwrap(), "lowerdir=/a\\:b:/c\\,d");
        assert_eq!(flags, MsFlags::MS_RDONLY);
    }

    /// Every way that this kernel knows gives the same mount, odd names included.
    #[test]
    fn all_ways_mount_the_same() {
        for (index, way) in [
            OptionForm::Appended,
            OptionForm::Joined,
            OptionForm::Classic,
        ]
        .into_iter()
        .enumerate()
        {
            in_mount_namespace("all_ways_mount_the_same", || {
                // Short, because all names must fit into 255 bytes.
                let base = Tree::on_tmpfs();
                let at = |name: &str| {
                    let path = base.path(name);
                    fs::create_dir(&path).unwrap();
                    path
                };
                // A comma cannot be written in the joined form before Linux 6.5.
                let overlay = Overlay {
                    lower: vec![at("a:b"), at("c\\d"), at("plain")],
                    upper: Some(Upper {
                        upper: at("u\\p:p"),
                        work: at("w"),
                    }),
                    target: at("t"),
                };
                for (layer, path) in overlay.lower.iter().enumerate() {
                    fs::write(path.join("who"), layer.to_string()).unwrap();
                    fs::write(path.join(format!("only{layer}")), "").unwrap();
                }
                let mut said = String::new();
                let done = match way {
                    OptionForm::Classic => classic(&overlay),
                    way => by_context(&overlay, way, &mut said),
                };
                if done == Err(Errno::ENODEV) {
                    println!("SKIPPED: all_ways_mount_the_same: no overlay file system here");
                    return;
                }
                done.unwrap_or_else(|error| panic!("way {index}: {error} {said}"));
                assert_eq!(fs::read(overlay.target.join("who")).unwrap(), b"0");
                for layer in 0..3 {
                    assert!(overlay.target.join(format!("only{layer}")).exists());
                }
                fs::write(overlay.target.join("new"), "").unwrap();
                assert!(base.path("u\\p:p/new").exists());
            });
        }
    }
}
