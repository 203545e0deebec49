//! Sizes side by side, and the budgets they must keep.

use std::fmt::Write as _;
use std::path::Path;

use crate::manifest::Manifest;
use crate::pack::{self, Format};
use crate::Error;

/// A figure that has a limit, in bytes.
struct Budget {
    file: &'static str,
    compressed: bool,
    limit: u64,
}

/// Of the shipped build. Why: the image is read, unpacked and kept in memory for every VM.
const BUDGETS: [Budget; 2] = [
    Budget {
        file: "init",
        compressed: false,
        limit: 3 << 20,
    },
    Budget {
        file: "initrd.img",
        compressed: true,
        limit: 3 << 19,
    },
];

/// A table of what is in `out`, and what is over its budget.
pub struct Sizes {
    pub table: String,
    pub over: Vec<String>,
}

/// Looks at the guest's program and every initrd in a directory. The budgets are for a guest that
/// was built with `--profile guest`, as the initrd's manifest says; others are larger.
///
/// # Errors
/// A file cannot be read; there is no `init` or no `initrd.img` with its manifest.
pub fn of(out: &Path) -> Result<Sizes, Error> {
    let read = |name: &str| {
        let path = out.join(name);
        std::fs::read(&path).map_err(Error::io("cannot read", &path))
    };
    let ships = serde_json::from_slice::<Manifest>(&read("initrd.manifest.json")?)
        .map_err(|source| Error::Syntax {
            path: out.join("initrd.manifest.json"),
            source,
        })?
        .values
        .get("profile")
        .is_some_and(|profile| profile == "guest");
    let mut names = vec!["init".to_owned()];
    let entries = std::fs::read_dir(out).map_err(Error::io("cannot read", out))?;
    let mut images: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("initrd") && name.ends_with(".img"))
        .collect();
    images.sort();
    names.extend(images);

    let mut table = format!("{:<24}{:>12}{:>12}  budget\n", "", "bytes", "gzip");
    let mut over = Vec::new();
    for name in &names {
        let bytes = pack::unpack(&read(name)?)?;
        let plain = bytes.len() as u64;
        let compressed = pack::pack(Format::Gzip, &bytes)?.len() as u64;
        let mut verdict = String::new();
        for budget in BUDGETS.iter().filter(|budget| budget.file == name) {
            let size = if budget.compressed { compressed } else { plain };
            let how = if budget.compressed { "gzip" } else { "bytes" };
            let limit = budget.limit;
            verdict = match (ships, size > limit) {
                (false, _) => format!("  {limit} {how}, not checked: not the shipped build"),
                (true, false) => format!("  {limit} {how}, {} left", limit - size),
                (true, true) => {
                    let excess = size - limit;
                    over.push(format!(
                        "{name}: {size} {how}, {excess} more than the budget"
                    ));
                    format!("  {limit} {how}, {excess} OVER")
                }
            };
        }
        // Writing to a string cannot fail.
        writeln!(table, "{name:<24}{plain:>12}{compressed:>12}{verdict}").ok();
    }
    Ok(Sizes { table, over })
}
