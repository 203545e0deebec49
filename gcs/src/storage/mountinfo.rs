//! The mount table, `/proc/thread-self/mountinfo` (proc(5)), as far as storage needs it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mount points at or below `path`, in the order of the table (oldest first).
pub fn mount_points_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read("/proc/thread-self/mountinfo")?;
    Ok(parse(&table)
        .filter(|point| point.starts_with(path))
        .collect())
}

/// How many mounts are on top of each other at exactly this path.
pub fn mounts_at(path: &Path) -> io::Result<usize> {
    let points = mount_points_below(path)?;
    Ok(points.iter().filter(|point| *point == path).count())
}

fn parse(table: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
}

/// Space, tab, newline and backslash stand in the table as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if first == b'\\' => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped_and_in_table_order() {
        let table = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n\
            37 36 0:5 / /a\\040b\\134c rw - tmpfs none rw\n\
            38 36 0:5 / /odd\\9\\ rw - tmpfs none rw\n";
        let points: Vec<_> = parse(table).collect();
        assert_eq!(
            points,
            [
                Path::new("/mnt2"),
                Path::new("/a b\\c"),
                Path::new("/odd\\9\\")
            ]
        );
    }

    #[test]
    fn the_root_is_always_a_mount_point() {
        let points = mount_points_below(Path::new("/")).unwrap();
        assert!(points.contains(&PathBuf::from("/")));
    }
}
