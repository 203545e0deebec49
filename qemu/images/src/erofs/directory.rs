//! Directories: blocks of entries sorted by name, each block with its names after its entries.

use super::format::{u16_at, u64_at, FileType, Nid, BLOCK};

const ENTRY: usize = 12;

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    pub name: &'a [u8],
    pub nid: Nid,
    pub kind: FileType,
}

/// How many bytes a directory with these names takes, `.` and `..` among them.
pub fn size<'a>(sorted: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let (mut blocks, mut used) = (0, 0);
    for name in sorted {
        let more = (ENTRY + name.len()) as u64;
        if used + more > BLOCK {
            blocks += 1;
            used = 0;
        }
        used += more;
    }
    blocks * BLOCK + used
}

/// The bytes of a directory.
pub fn encode(sorted: &[Name<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = sorted;
    while !rest.is_empty() {
        out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
        let mut used = 0;
        let fits = rest.iter().take_while(|name| {
            used += ENTRY + name.name.len();
            used as u64 <= BLOCK
        });
        let (here, after) = rest.split_at(fits.count());
        block(here, &mut out);
        rest = after;
    }
    out
}

fn block(names: &[Name<'_>], out: &mut Vec<u8>) {
    let mut at = names.len() * ENTRY;
    for name in names {
        out.extend_from_slice(&name.nid.to_le_bytes());
        out.extend_from_slice(&(at as u16).to_le_bytes());
        out.extend_from_slice(&[name.kind as u8, 0]);
        at += name.name.len();
    }
    for name in names {
        out.extend_from_slice(name.name);
    }
}

/// Finds `name` in a directory's bytes; `None` also when the bytes make no sense.
pub fn find(bytes: &[u8], name: &[u8]) -> Option<Nid> {
    let block = |at: usize| bytes.chunks(BLOCK as usize).nth(at);
    // The last block that does not begin after the name.
    let (mut low, mut high) = (0, bytes.len().div_ceil(BLOCK as usize));
    while low < high {
        let middle = (low + high) / 2;
        let (first, _) = names(block(middle)?).next()?;
        if first <= name {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let found = names(block(low.checked_sub(1)?)?).find(|(n, _)| *n == name);
    found.map(|(_, nid)| nid)
}

/// The names in a directory's bytes, except `.` and `..`.
pub fn list(bytes: &[u8]) -> impl Iterator<Item = (&[u8], Nid)> {
    let all = bytes.chunks(BLOCK as usize).flat_map(names);
    all.filter(|(name, _)| !matches!(*name, b"." | b".."))
}

fn names(block: &[u8]) -> impl Iterator<Item = (&[u8], Nid)> {
    let count = match block.get(8..10) {
        Some(offset) => usize::from(u16_at(offset, 0)) / ENTRY,
        None => 0,
    };
    (0..count).map_while(move |at| {
        let entry = block.get(at * ENTRY..(at + 1) * ENTRY)?;
        let start = usize::from(u16_at(entry, 8));
        let end = match block.get((at + 1) * ENTRY + 8..(at + 1) * ENTRY + 10) {
            Some(offset) if at + 1 < count => usize::from(u16_at(offset, 0)),
            _ => block.len(),
        };
        let name = block.get(start..end)?;
        // The last name of a block is padded.
        let name = name.split(|byte| *byte == 0).next()?;
        Some((name, u64_at(entry, 0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_found(
            names in prop::collection::btree_set(prop::collection::vec(1u8.., 1..256), 1..200),
        ) {
            let names: Vec<_> = (7..)
                .zip(&names)
                .map(|(nid, name)| Name { name, nid, kind: FileType::Regular })
                .collect();
            let bytes = encode(&names);
            prop_assert_eq!(bytes.len() as u64, size(names.iter().map(|name| name.name)));
            for name in &names {
                prop_assert_eq!(find(&bytes, name.name), Some(name.nid));
            }
            prop_assert_eq!(find(&bytes, &[1; 256]), None);
            prop_assert_eq!(find(&bytes, &[255; 256]), None);
        }

        #[test]
        fn any_bytes_end_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            let _outcome = find(&bytes, b"x");
            let _count = list(&bytes).count();
        }
    }
}
