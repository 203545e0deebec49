//! The default image: this machine's static busybox with a link for each of its applets.
//!
//! Nothing has to be fetched from a registry this way. The default command shows what a person
//! wants to see first: the kernel, memory, mounts and processes as the container has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::blob::Digest;
use super::cache::Cache;
use super::error::{Doing, OciError, Result};
use super::layer::{Body, Builder, Fault};
use super::manifest::ImageConfig;
use super::meta::Meta;
use super::Image;

/// Changes whenever the recipe below does.
const RECIPE: &str = "busybox-v3";
const CANDIDATES: [&str; 4] = [
    "/usr/bin/busybox",
    "/bin/busybox",
    "/usr/local/bin/busybox",
    "/sbin/busybox",
];

/// Directories and their modes.
const DIRS: [(&str, u32); 12] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/tmp", 0o1777),
];

/// Names, modes and contents. `1000` is an ordinary user to try `--user` with.
const FILES: [(&str, u32, &str); 4] = [
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", 0o644, "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n"),
    ("etc/profile", 0o644, "PS1='\\u@\\h:\\w\\$ '\n"),
    ("bin/show", 0o755, SHOW),
];

const SHOW: &str = r#"#!/bin/sh
# What this container sees.
echo "Hello from a Linux container in a utility VM."
echo; echo "kernel"; echo "  $(uname -srvm)"
echo; echo "memory"; free -m | sed 's/^/  /'
echo; echo "mounts"; while read -r _ where kind _; do echo "  $where ($kind)"; done < /proc/mounts
echo; echo "processes"; ps -o pid,user,args | sed 's/^/  /'
"#;

pub fn image(cache: &Cache) -> Result<Image> {
    let binary = find()?;
    let bytes = fs::read(&binary).doing(|| format!("reading {}", binary.display()))?;
    if !is_static(&bytes) {
        return Err(unfit(
            &binary,
            "is not a static program (Debian: busybox-static)",
        ));
    }
    let recipe = Digest::of(format!("{FILES:?}{DIRS:?}").as_bytes()).hex();
    let key = format!("{RECIPE}-{}-{}", Digest::of(&bytes).hex(), &recipe[..8]);
    let layer = cache.layer("the busybox image", &key, &[], |layer| {
        let applets = applets(&binary)?;
        put(&bytes, &applets, layer).map_err(|fault| match fault {
            Fault::Entry(why) => unfit(&binary, &why),
            Fault::Source(error) | Fault::Disk(error) => OciError::disk("busybox", error),
            Fault::Other(error) => error,
        })
    })?;
    Ok(Image {
        layers: vec![layer],
        config: ImageConfig {
            cmd: vec!["/bin/show".into()],
            ..ImageConfig::default()
        },
    })
}

/// This machine's busybox.
pub fn find() -> Result<PathBuf> {
    let found = CANDIDATES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        OciError::unsupported(
            "the default image",
            "busybox is not installed (Debian: busybox-static); or name an image",
        )
    })
}

fn unfit(binary: &Path, why: &str) -> OciError {
    OciError::unsupported(format!("the default image: {}", binary.display()), why)
}

fn put(binary: &[u8], applets: &[String], layer: &mut Builder) -> Result<(), Fault> {
    for (path, mode) in DIRS {
        layer.dir(path.as_bytes(), Meta::new(mode))?;
    }
    // The links come first, so that an applet does not replace a file of the recipe.
    for path in applets {
        // Relative, so that they also lead somewhere where the disk is no root.
        let target = format!("{}bin/busybox", "../".repeat(path.matches('/').count()));
        let body = Body::Symlink(target.as_bytes());
        layer.leaf(path.as_bytes(), &Meta::new(0o777), body)?;
    }
    let mut file = |path: &str, mode: u32, mut bytes: &[u8]| {
        let length = bytes.len() as u64;
        let body = Body::File(&mut bytes, length);
        layer.leaf(path.as_bytes(), &Meta::new(mode), body)
    };
    file("bin/busybox", 0o755, binary)?;
    for (path, mode, text) in FILES {
        file(path, mode, text.as_bytes())?;
    }
    Ok(())
}

/// `bin/ls`, `usr/bin/awk`, … as this busybox has them.
fn applets(binary: &Path) -> Result<Vec<String>> {
    let done = Command::new(binary)
        .arg("--list-full")
        .output()
        .doing(|| format!("asking {} for its applets", binary.display()))?;
    let text = String::from_utf8_lossy(&done.stdout);
    let applets: Vec<_> = text
        .lines()
        .map(str::to_owned)
        .filter(|l| l.contains('/'))
        .collect();
    if !done.status.success() || applets.is_empty() {
        return Err(unfit(binary, "does not list its applets"));
    }
    Ok(applets)
}

/// An x86-64 ELF program without an interpreter.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    let number = |at: usize, len: usize| -> Option<usize> {
        let bytes = elf.get(at..at + len)?;
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
    };
    let headers = || -> Option<bool> {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let mut found = false;
        for header in 0..count {
            found |= elf
                .get(start.checked_add(header * size)?..)?
                .starts_with(&PT_INTERP);
        }
        Some(found)
    };
    elf.starts_with(b"\x7fELF\x02\x01") && headers() == Some(false)
}
