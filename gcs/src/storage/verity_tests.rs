use super::testing::superblock;
use super::*;

const BLOCKS: u64 = 0x1_0002;

fn parse(superblock: &[u8]) -> Result<HashTree, VerityError> {
    HashTree::parse(superblock, &[7; BLOCK], BLOCKS * 4096)
}

#[test]
fn the_table_is_as_the_kernel_wants_it() {
    let tree = parse(&superblock(BLOCKS)).unwrap();
    // SHA-256 of the salt and 4096 times 7, by sha256sum.
    let digest = "e14529917ec32f610eb29bf253ae301331188f6d9c73798747611ff0a0694af6";
    assert_eq!(tree.sectors(), BLOCKS * 8);
    assert_eq!(
        tree.parameters(Path::new("/dev/sda")),
        format!("1 /dev/sda /dev/sda 4096 4096 65538 65539 sha256 {digest} ab000102")
    );
    let mut unsalted = superblock(BLOCKS);
    unsalted[80] = 0;
    let tree = parse(&unsalted).unwrap();
    assert!(tree.parameters(Path::new("/dev/sda")).ends_with(" -"));
}

#[test]
fn a_superblock_that_is_not_one_of_ours_is_refused() {
    let changed = |at: usize, value: u8| {
        let mut bytes = superblock(BLOCKS);
        bytes[at] = value;
        bytes
    };
    for (bytes, word) in [
        (changed(0, b'V'), "no verity superblock"),
        (changed(8, 2), "version 2"),
        (changed(33, b'x'), "sxa256"),
        (changed(64, 1), "blocks of 4097"),
        (changed(69, 0), "and 0 bytes"),
        (changed(72, 3), "about 65539 blocks"),
        (changed(79, 1), "blocks"),
        (changed(81, 2), "516 bytes of salt"),
        (vec![0; BLOCK], "no verity superblock"),
        (
            superblock(BLOCKS)[..BLOCK - 1].to_vec(),
            "no verity superblock",
        ),
    ] {
        let refused = parse(&bytes).unwrap_err();
        assert!(refused.to_string().contains(word), "{refused}");
    }
}

#[test]
fn the_file_system_says_where_the_tree_begins() {
    let mut bytes = [0; EXT4_LENGTH];
    bytes[56..58].copy_from_slice(&[0x53, 0xef]);
    bytes[4] = 3;
    for (exponent, size) in [
        (0, Ok(3072)),
        (2, Ok(12_288)),
        (7, Err(VerityError::NotExt4)),
    ] {
        bytes[24] = exponent;
        assert_eq!(ext4_size(&bytes), size);
    }
    bytes[56] = 0;
    assert_eq!(ext4_size(&bytes), Err(VerityError::NotExt4));
    assert_eq!(ext4_size(&[]), Err(VerityError::NotExt4));
}

#[test]
fn a_layer_without_a_tree_is_refused() {
    let top = tempfile::tempdir().unwrap();
    let device = top.path().join("layer");
    File::create(&device).unwrap().set_len(16 << 20).unwrap();
    let refused = read(&device).unwrap_err();
    assert!(refused.message.contains("no ext4"), "{refused}");
    testing::layer(&device);
    read(&device).unwrap();
    // The device ends with its file system.
    File::options()
        .write(true)
        .open(&device)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    let refused = read(&device).unwrap_err();
    assert!(
        refused.message.contains("no verity superblock"),
        "{refused}"
    );
}
