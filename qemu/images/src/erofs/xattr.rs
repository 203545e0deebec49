//! Extended attributes after an inode: a header of 12 bytes, then entries padded to 4.

use std::collections::BTreeMap;

use super::format::u16_at;
use crate::meta::{Meta, Why};

const HEADER: usize = 12;
/// An inode counts its attributes' bytes in 16 bits, in units of 4.
const TOTAL_MAX: usize = HEADER + 4 * 0xfffe;
/// The size of a value has 16 bits (Linux itself allows one byte more).
const VALUE_MAX: usize = 0xffff;

/// The classes of names that EROFS has, as prefix and index. Access lists have no name beyond it.
const CLASSES: [(&str, u8); 5] = [
    ("user.", 1),
    ("system.posix_acl_access", 2),
    ("system.posix_acl_default", 3),
    ("trusted.", 4),
    ("security.", 6),
];

fn class(name: &[u8]) -> Option<(u8, &[u8])> {
    CLASSES.iter().find_map(|(prefix, index)| {
        let rest = name.strip_prefix(prefix.as_bytes())?;
        let whole = !prefix.ends_with('.');
        (rest.is_empty() == whole && rest.len() < 256).then_some((*index, rest))
    })
}

/// Whether Linux has attributes of this name on an ordinary file system.
pub fn storable(name: &[u8]) -> bool {
    class(name).is_some()
}

/// Whether a disk can hold the attributes of `meta`.
pub fn check(meta: &Meta) -> Result<(), Why> {
    encode(&meta.xattrs).map(drop)
}

/// What follows the inode; nothing when there are no attributes.
pub fn encode(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<u8>, Why> {
    let mut out = Vec::new();
    for (name, value) in xattrs {
        let shown = || String::from_utf8_lossy(name);
        let (index, rest) = class(name)
            .ok_or_else(|| format!("has the attribute {:?}, which Linux has not", shown()))?;
        if value.len() > VALUE_MAX {
            let length = value.len();
            return Err(format!(
                "has {length} bytes in its attribute {:?}; {VALUE_MAX} are possible",
                shown()
            ));
        }
        out.resize(out.len().max(HEADER), 0);
        out.push(rest.len() as u8);
        out.push(index);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    if out.len() > TOTAL_MAX {
        return Err(format!(
            "has {} bytes of attributes; {TOTAL_MAX} are possible",
            out.len()
        ));
    }
    Ok(out)
}

/// Reads what [`encode`] wrote; `None` for anything else.
pub fn decode(bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut rest = bytes.get(HEADER..).unwrap_or_default();
    while let Some(head) = rest.get(..4) {
        let (name, value) = (usize::from(head[0]), usize::from(u16_at(head, 2)));
        let (prefix, _) = CLASSES.iter().find(|(_, index)| *index == head[1])?;
        let body = rest.get(4..4 + name + value)?;
        let (name, value) = body.split_at(name);
        all.insert([prefix.as_bytes(), name].concat(), value.to_vec());
        let taken = (4 + body.len()).next_multiple_of(4);
        rest = rest.get(taken..)?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            pairs in prop::collection::btree_map(
                ("(user|trusted|security)", prop::collection::vec(1u8.., 1..256))
                    .prop_map(|(class, rest)| [class.as_bytes(), b".", &rest].concat()),
                prop::collection::vec(any::<u8>(), 0..600),
                0..8,
            ),
        ) {
            let bytes = encode(&pairs).unwrap();
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert_eq!(decode(&bytes), Some(pairs));
        }

        #[test]
        fn any_bytes_end_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _outcome = decode(&bytes);
        }
    }

    #[test]
    fn names_and_sizes_have_bounds() {
        for (name, known) in [
            ("user.x", true),
            ("user.", false),
            ("system.posix_acl_access", true),
            ("system.posix_acl_accessory", false),
            ("system.nfs4_acl", false),
            ("com.apple.quarantine", false),
            ("security.capability", true),
        ] {
            assert_eq!(storable(name.as_bytes()), known, "{name}");
        }
        let packed = |count: usize, length: usize| {
            let pair = |n: usize| (format!("user.x{n}").into_bytes(), vec![1; length]);
            encode(&(0..count).map(pair).collect())
        };
        assert!(packed(3, VALUE_MAX).is_ok());
        assert!(packed(5, VALUE_MAX).unwrap_err().contains("are possible"));
        let refused = packed(1, VALUE_MAX + 1).unwrap_err();
        assert!(
            refused.contains("65536 bytes") && refused.contains("user.x"),
            "{refused}"
        );
    }
}
