//! The two initrds of a bench: the floor program as PID 1, and the guest with the floor program
//! put in, so that both run the same program on the same kernel.

use std::fs;
use std::path::Path;

use image::archive;
use image::tree::{Kind, Node, Tree};

use super::peer::Peer;

/// Where the guest has the floor program.
pub const FLOOR: &str = "/bench/floor";

/// An initrd whose PID 1 is the floor program.
pub fn floor_only(floor: &Path, to: &Path) -> Result<(), String> {
    let mut tree = Tree::default();
    add(&mut tree, "/dev", Kind::Directory)?;
    add(&mut tree, "/dev/console", Kind::Char(5, 1))?;
    add(&mut tree, "/init", Kind::File(read(floor)?))?;
    write(to, &pack(&tree)?)
}

/// The guest's initrd with the floor program, and with the peer where there is one: an archive of its own in front, which the kernel
/// unpacks too.
pub fn with_floor(
    initrd: &Path,
    floor: &Path,
    peer: Option<&Peer>,
    to: &Path,
) -> Result<(), String> {
    let mut tree = Tree::default();
    add(&mut tree, "/bench", Kind::Directory)?;
    add(&mut tree, FLOOR, Kind::File(read(floor)?))?;
    peer.map_or(Ok(()), |peer| peer.add(&mut tree))?;
    let mut bytes = pack(&tree)?;
    // The next archive begins at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(read(initrd)?);
    write(to, &bytes)
}

fn add(tree: &mut Tree, path: &str, kind: Kind) -> Result<(), String> {
    tree.add(path, Node { kind, mode: 0o755 })
}

fn pack(tree: &Tree) -> Result<Vec<u8>, String> {
    archive::write(tree, 0).map_err(|e| e.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("reading {}: {e}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|e| format!("writing {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_stays_whole_after_the_floor() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::write(at("floor"), "program").unwrap();
        fs::write(at("initrd"), "0707guest").unwrap();
        with_floor(&at("initrd"), &at("floor"), None, &at("both")).unwrap();
        let both = fs::read(at("both")).unwrap();
        let start = both.len() - 9;
        assert_eq!((&both[start..], start % 512), (&b"0707guest"[..], 0));
        let members = archive::read(&both[..start]).unwrap();
        let paths: Vec<_> = members.iter().map(|member| member.path.as_str()).collect();
        assert_eq!(paths, ["/bench", FLOOR]);
        assert_eq!(members[1].body, b"program");
    }
}
