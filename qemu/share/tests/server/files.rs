//! Files as programs use them, and users.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::libc::{EACCES, EAGAIN, ENODATA, O_CREAT, O_EXCL, O_RDONLY, O_RDWR};
use uvm_share::Access::ReadWrite;

use crate::client::{fields, Client};

/// Valid bits of a change, as `setattr` sends them.
const MODE: u32 = 1;
const SIZE: u32 = 8;
const MTIME: u32 = 0x120;

fn change(
    fid: u32,
    valid: u32,
    mode: u32,
    size: u64,
    seconds: u64,
    nano: u64,
) -> crate::client::Fields {
    let change = fields()
        .u32(fid)
        .u32(valid)
        .u32(mode)
        .u32(0)
        .u32(0)
        .u64(size);
    change.u64(0).u64(0).u64(seconds).u64(nano)
}

#[test]
fn an_unlinked_file_stays_usable() {
    let top = tempfile::tempdir().unwrap();
    let mut client = Client::attached(top.path(), ReadWrite, 0);
    client.walk(1, &[]).unwrap();
    client
        .create(1, "file", O_CREAT | O_EXCL | O_RDWR, 0o600)
        .unwrap();
    client.walk(2, &["file"]).unwrap();
    client
        .call(76, fields().u32(0).text("file").u32(0))
        .unwrap();
    assert_eq!(client.write(1, 3, b"abc"), Ok(3));
    for fid in [1, 2] {
        assert_eq!(client.stat(fid).unwrap().1, 6);
        client.call(26, change(fid, MODE, 0o400, 0, 0, 0)).unwrap();
        assert_eq!(client.stat(fid).unwrap().0, 0o100_400);
        client
            .call(26, change(fid, MTIME, 0, 0, 2, 123_456_789))
            .unwrap();
        let (_, _, seconds, nano) = client.stat(fid).unwrap();
        assert_eq!((seconds, nano), (2, 123_456_789));
    }
    client.call(26, change(1, SIZE, 0, 4, 0, 0)).unwrap();
    assert_eq!(client.read(1, 0, 100), Ok(b"\0\0\0a".to_vec()));
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
}

#[test]
fn a_new_file_has_the_mode_that_was_asked_for() {
    let top = tempfile::tempdir().unwrap();
    let mut client = Client::attached(top.path(), ReadWrite, 0);
    client.walk(1, &[]).unwrap();
    client.create(1, "file", O_CREAT | O_RDWR, 0o666).unwrap();
    let make = fields().u32(0).text("dir").u32(0o1777).u32(0);
    client.call(72, make).unwrap();
    let mode = |name| {
        fs::metadata(top.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!((mode("file"), mode("dir")), (0o666, 0o1777));
}

#[test]
fn a_large_directory_is_read_in_pieces() {
    let top = tempfile::tempdir().unwrap();
    let mut wanted: Vec<String> = (0..2000)
        .map(|number| format!("a longer name {number}"))
        .collect();
    for name in &wanted {
        fs::write(top.path().join(name), "").unwrap();
    }
    let mut client = Client::attached(top.path(), ReadWrite, 0);
    client.walk(1, &[]).unwrap();
    client.open(1, O_RDONLY).unwrap();
    wanted.extend([".".to_owned(), "..".to_owned()]);
    wanted.sort();
    for count in [300, 4096, 60_000] {
        let mut names = client.names(1, count);
        names.sort();
        assert!(
            names == wanted,
            "{} names with {count} bytes a message",
            names.len()
        );
    }
}

#[test]
fn attributes_are_written_and_read_as_files() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("file"), "").unwrap();
    let mut client = Client::attached(top.path(), ReadWrite, 0);
    client.walk(1, &["file"]).unwrap();
    let begin = |size: u64, flags: u32| fields().u32(2).text("user.note").u64(size).u32(flags);
    client.walk_from(1, 2, &[]).unwrap();
    client.call(32, begin(5, 0)).unwrap();
    assert_eq!(client.write(2, 0, b"he"), Ok(2));
    assert_eq!(client.write(2, 2, b"llo"), Ok(3));
    client.clunk(2).unwrap();
    let walk = |name: &str| fields().u32(1).u32(2).text(name);
    assert_eq!(
        client.call(30, walk("user.note")),
        Ok(5_u64.to_le_bytes().to_vec())
    );
    assert_eq!(client.read(2, 1, 100), Ok(b"ello".to_vec()));
    client.clunk(2).unwrap();
    client.call(30, walk("")).unwrap();
    assert_eq!(client.read(2, 0, 100), Ok(b"user.note\0".to_vec()));
    client.clunk(2).unwrap();
    // A size of 0 removes it.
    client.walk_from(1, 2, &[]).unwrap();
    client.call(32, begin(0, 2)).unwrap();
    client.clunk(2).unwrap();
    assert_eq!(client.call(30, walk("user.note")), Err(ENODATA));
}

#[test]
fn locks_are_kept_against_programs_of_this_machine() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("file");
    fs::write(&path, "0123456789").unwrap();
    let mut client = Client::attached(top.path(), ReadWrite, 0);
    client.walk(1, &["file"]).unwrap();
    client.open(1, O_RDWR).unwrap();
    let lock = |kind: u8, start: u64, length: u64| {
        let lock = fields().u32(1).u8(kind).u32(0).u64(start).u64(length);
        lock.u32(1).text("client")
    };
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    // All of it, by flock.
    assert_eq!(client.call(52, lock(1, 0, 0)), Ok(vec![0]));
    let tried = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(tried.map_err(|e| e.raw_os_error()), Err(EAGAIN));
    assert_eq!(client.call(52, lock(2, 0, 0)), Ok(vec![0]));
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(client.call(52, lock(0, 0, 0)), Ok(vec![1]));
    // A part.
    assert_eq!(client.call(52, lock(1, 2, 3)), Ok(vec![0]));
    assert_eq!(client.call(52, lock(2, 2, 3)), Ok(vec![0]));
    let free = client.call(54, {
        let lock = fields().u32(1).u8(1).u64(2).u64(3);
        lock.u32(1).text("client")
    });
    assert_eq!(free.unwrap()[0], 2);
}

/// Only root's server can become other users.
#[test]
fn users_have_their_own_rights() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: users_have_their_own_rights needs root");
        return;
    }
    let top = tempfile::tempdir().unwrap();
    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(top.path().join("private"), "private").unwrap();
    fs::set_permissions(
        top.path().join("private"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    let mut client = Client::attached(top.path(), ReadWrite, 12_345);
    client.walk(1, &["private"]).unwrap();
    assert_eq!(client.open(1, O_RDONLY), Err(EACCES));
    client.walk(2, &[]).unwrap();
    let create = fields().u32(2).text("mine").u32((O_CREAT | O_RDWR) as u32);
    client.call(14, create.u32(0o640).u32(54_321)).unwrap();
    let made = fs::metadata(top.path().join("mine")).unwrap();
    assert_eq!((made.uid(), made.gid()), (12_345, 54_321));
    // Another user of the same connection.
    let attach = fields()
        .u32(3)
        .u32(crate::client::NO_FID)
        .text("")
        .text("")
        .u32(0);
    client.call(104, attach).unwrap();
    client.walk_from(3, 4, &["private"]).unwrap();
    client.open(4, O_RDONLY).unwrap();
    assert_eq!(client.read(4, 0, 9), Ok(b"private".to_vec()));
}
