//! Any tree survives the archive: paths, kinds, modes, contents and shared inodes.

use image::archive::{read, write};
use image::tree::{Kind, Node, Tree};
use proptest::prelude::*;

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Directory),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Kind::File),
        "[a-z/.]{1,40}".prop_map(Kind::Symlink),
        (0u32..512, 0u32..512).prop_map(|(major, minor)| Kind::Char(major, minor)),
        (0u32..512, 0u32..512).prop_map(|(major, minor)| Kind::Block(major, minor)),
    ]
}

proptest! {
    #[test]
    fn a_tree_comes_back(
        nodes in prop::collection::btree_map("[a-zA-Z0-9._-]{3,30}", (kind(), 0u32..0o10000), 0..20),
        epoch in any::<u32>(),
    ) {
        let mut tree = Tree::default();
        for (name, (kind, mode)) in &nodes {
            let path = format!("/{name}");
            let node = Node { kind: kind.clone(), mode: *mode };
            prop_assert_eq!(tree.add(&path, node), Ok(()));
            if matches!(kind, Kind::File(_)) {
                // Names before and after the file's own.
                for other in [format!("/!{name}"), format!("/~{name}")] {
                    let node = Node { kind: Kind::Same(path.clone()), mode: *mode };
                    prop_assert_eq!(tree.add(&other, node), Ok(()));
                }
            }
        }
        prop_assert_eq!(tree.check(), Ok(()));
        let bytes = write(&tree, epoch).unwrap();
        prop_assert_eq!(bytes.len() % 4, 0);
        let members = read(&bytes).unwrap();
        prop_assert_eq!(members.len(), tree.iter().count());
        for ((path, node), member) in tree.iter().zip(&members) {
            prop_assert_eq!(&member.path, path);
            prop_assert_eq!(member.mode & 0o7777, node.mode);
            prop_assert_eq!(member.mtime, epoch);
            let group: Vec<_> = members.iter().filter(|m| m.inode == member.inode).collect();
            match &node.kind {
                Kind::File(_) | Kind::Same(_) => {
                    prop_assert_eq!(group.len(), 3);
                    prop_assert_eq!(tree.content(node).unwrap(), &group[2].body);
                    prop_assert!(group[0].body.is_empty() && group[1].body.is_empty());
                }
                Kind::Symlink(target) => prop_assert_eq!(target.as_bytes(), &member.body),
                _ => prop_assert_eq!(group.len(), 1),
            }
        }
    }

    #[test]
    fn the_reader_refuses_or_reads_any_bytes(digits in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"070701".to_vec();
        bytes.extend(digits.iter().map(|digit| b"0123456789abcdef"[usize::from(digit % 16)]));
        if let Ok(members) = read(&bytes) {
            prop_assert!(members.len() * 110 <= bytes.len());
        }
    }
}
