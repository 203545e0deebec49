//! What a hostile guest tries, and what nobody may reach by it.

use std::fs;
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::libc::{
    EACCES, EBADF, EINVAL, ELOOP, ENOENT, ENOTDIR, EOPNOTSUPP, EROFS, O_CREAT, O_RDONLY, O_RDWR,
    O_TRUNC, O_WRONLY,
};
use proptest::prelude::*;
use uvm_share::Access::{ReadOnly, ReadWrite};

use crate::client::{fields, Client};

/// A directory to share, and beside it what must stay out of reach.
fn tree() -> (tempfile::TempDir, std::path::PathBuf) {
    let top = tempfile::tempdir().unwrap();
    let share = top.path().join("share");
    fs::create_dir_all(share.join("d/victim")).unwrap();
    fs::create_dir(top.path().join("outside")).unwrap();
    fs::write(top.path().join("outside/secret"), "secret").unwrap();
    (top, share)
}

fn outside_is_untouched(top: &Path) {
    let entries: Vec<_> = fs::read_dir(top.join("outside")).unwrap().collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(fs::read(top.join("outside/secret")).unwrap(), b"secret");
}

#[test]
fn no_name_leads_out() {
    let (top, share) = tree();
    let mut client = Client::attached(&share, ReadWrite, 0);
    for names in [
        &[".."][..],
        &["."],
        &["../outside"],
        &["/etc"],
        &["d/victim"],
        &[""],
        &["a\0"],
    ] {
        assert_eq!(client.walk(1, names), Err(EINVAL), "{names:?}");
    }
    // What was found is told, and the fid is not made.
    assert_eq!(client.walk(1, &["d", "..", ".."]), Ok(1));
    assert_eq!(client.stat(1), Err(EBADF));
    for name in ["..", "../outside/new", "/tmp/new", ""] {
        assert_eq!(
            client.create(0, name, O_CREAT | O_RDWR, 0o644),
            Err(EINVAL),
            "{name}"
        );
        let make = || fields().u32(0).text(name);
        assert_eq!(client.call(72, make().u32(0o755).u32(0)), Err(EINVAL));
        assert_eq!(client.call(16, make().text("x").u32(0)), Err(EINVAL));
        assert_eq!(client.call(76, make().u32(0x200)), Err(EINVAL));
        assert_eq!(
            client.call(74, fields().u32(0).text("d").u32(0).text(name)),
            Err(EINVAL)
        );
    }
    outside_is_untouched(top.path());
}

/// The directory in which somebody works is renamed, and a link takes its place.
#[test]
fn a_link_in_the_place_of_a_directory_is_not_followed() {
    let (top, share) = tree();
    let mut client = Client::attached(&share, ReadWrite, 0);
    assert_eq!(client.walk(1, &["d", "victim"]), Ok(2));
    fs::rename(share.join("d"), share.join("x")).unwrap();
    symlink(top.path(), share.join("d")).unwrap();
    fs::create_dir(top.path().join("victim")).unwrap();
    // What was walked to is the directory that it was.
    client.create(1, "owned", O_CREAT | O_RDWR, 0o644).unwrap();
    assert!(share.join("x/victim/owned").exists());
    assert!(!top.path().join("victim/owned").exists());
    // The link is a link.
    assert_eq!(client.walk(2, &["d", "outside"]), Ok(1));
    assert_eq!(client.walk(2, &["d"]), Ok(1));
    assert_eq!(client.walk_from(2, 3, &["outside"]), Err(ENOTDIR));
    assert_eq!(client.open(2, O_RDONLY), Err(EOPNOTSUPP));
    assert!(client.create(2, "new", O_CREAT | O_RDWR, 0o644).is_err());
    outside_is_untouched(top.path());
}

/// A file is created where a link is in the way, and where something else is.
#[test]
fn what_is_in_the_way_of_a_new_file_is_not_followed() {
    let (top, share) = tree();
    symlink("../outside/secret", share.join("link")).unwrap();
    symlink("../outside/new", share.join("dangling")).unwrap();
    let mut client = Client::attached(&share, ReadWrite, 0);
    for name in ["link", "dangling"] {
        assert_eq!(client.walk(1, &[]), Ok(0));
        let created = client.create(1, name, O_CREAT | O_WRONLY | O_TRUNC, 0o644);
        assert!(matches!(created, Err(ELOOP | EOPNOTSUPP)), "{created:?}");
        client.clunk(1).unwrap();
    }
    outside_is_untouched(top.path());
}

#[test]
fn devices_pipes_and_sockets_are_not_opened() {
    let (_top, share) = tree();
    let _listener = UnixListener::bind(share.join("socket")).unwrap();
    let mut client = Client::attached(&share, ReadWrite, 0);
    let node = |name: &str, mode: u32| fields().u32(0).text(name).u32(mode).u32(1).u32(3).u32(0);
    client.call(18, node("pipe", 0o010_644)).unwrap();
    let mut names = vec!["pipe", "socket"];
    if nix::unistd::geteuid().is_root() {
        client.call(18, node("null", 0o020_666)).unwrap();
        let made = fs::symlink_metadata(share.join("null")).unwrap();
        assert!(made.file_type().is_char_device());
        assert_eq!((made.rdev(), made.mode() & 0o777), (0x103, 0o666));
        names.push("null");
    }
    for name in names {
        assert_eq!(client.walk(1, &[name]), Ok(1));
        for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
            assert_eq!(client.open(1, flags), Err(EOPNOTSUPP), "{name}");
        }
        client.clunk(1).unwrap();
        assert_eq!(client.walk(1, &[]), Ok(0));
        let created = client.create(1, name, O_CREAT | O_WRONLY, 0o644);
        assert_eq!(created, Err(EOPNOTSUPP), "{name}");
        client.clunk(1).unwrap();
    }
}

#[test]
fn nothing_is_written_to_a_read_only_share() {
    let (_top, share) = tree();
    fs::write(share.join("file"), "content").unwrap();
    let mut client = Client::attached(&share, ReadOnly, 0);
    assert_eq!(client.walk(1, &["file"]), Ok(1));
    for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC] {
        assert_eq!(client.open(1, flags), Err(EROFS));
    }
    let make = || fields().u32(0).text("new");
    for (kind, request) in [
        (14, make().u32(O_RDONLY as u32).u32(0o644).u32(0)),
        (16, make().text("target").u32(0)),
        (18, make().u32(0o010_644).u32(0).u32(0).u32(0)),
        (
            26,
            fields()
                .u32(1)
                .u32(1)
                .u32(0)
                .u32(0)
                .u32(0)
                .u64(0)
                .bytes(&[0; 32]),
        ),
        (32, fields().u32(1).text("user.x").u64(1).u32(0)),
        (70, fields().u32(0).u32(1).text("new")),
        (72, make().u32(0o755).u32(0)),
        (74, fields().u32(0).text("file").u32(0).text("new")),
        (76, fields().u32(0).text("file").u32(0)),
    ] {
        assert_eq!(client.call(kind, request), Err(EROFS), "{kind}");
    }
    client.open(1, O_RDONLY).unwrap();
    assert_eq!(client.write(1, 0, b"x"), Err(EROFS));
    assert_eq!(client.read(1, 0, 100), Ok(b"content".to_vec()));
    assert_eq!(fs::read_dir(&share).unwrap().count(), 2);
}

#[test]
fn a_shared_file_is_all_that_is_shared() {
    let (_top, share) = tree();
    fs::write(share.join("file"), "content").unwrap();
    fs::write(share.join("other"), "other").unwrap();
    let mut client = Client::attached(&share.join("file"), ReadWrite, 0);
    assert_eq!(client.walk(1, &["other"]), Err(ENOENT));
    assert_eq!(client.walk(1, &["d"]), Err(ENOENT));
    assert_eq!(client.walk(1, &[]), Ok(0));
    client.open(1, O_RDONLY).unwrap();
    let mut names = client.names(1, 4096);
    names.sort();
    assert_eq!(names, [".", "..", "file"]);
    let make = || fields().u32(0).text("new");
    for (kind, request) in [
        (14, make().u32(O_CREAT as u32).u32(0o644).u32(0)),
        (72, make().u32(0o755).u32(0)),
        (74, fields().u32(0).text("other").u32(0).text("file")),
        (76, fields().u32(0).text("other").u32(0)),
        (
            26,
            fields()
                .u32(0)
                .u32(1)
                .u32(0)
                .u32(0)
                .u32(0)
                .u64(0)
                .bytes(&[0; 32]),
        ),
    ] {
        assert_eq!(client.call(kind, request), Err(EACCES), "{kind}");
    }
    assert_eq!(client.walk(2, &["file"]), Ok(1));
    client.open(2, O_RDWR).unwrap();
    assert_eq!(client.write(2, 0, b"C"), Ok(1));
    assert_eq!(fs::read(share.join("file")).unwrap(), b"Content");
}

/// Attributes that this machine trusts are not set from a guest.
#[test]
fn attributes_of_the_system_are_not_served() {
    let (_top, share) = tree();
    let mut client = Client::attached(&share, ReadWrite, 0);
    for name in [
        "trusted.overlay.opaque",
        "security.selinux",
        "system.x",
        "",
        "x",
    ] {
        let request = fields().u32(0).text(name).u64(1).u32(0);
        assert_eq!(client.call(32, request), Err(EOPNOTSUPP), "{name}");
    }
}

#[test]
fn a_client_that_breaks_the_protocol_is_let_go() {
    let (_top, share) = tree();
    for bytes in [
        &[0; 4][..],
        &[6, 0, 0, 0],
        &[0xff; 12],
        &[255, 255, 255, 127, 100, 0, 0],
    ] {
        assert!(!Client::new(&share, ReadWrite).send(bytes), "{bytes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Every whole frame has an answer, and the next request works.
    #[test]
    fn any_request_is_answered(kind in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let (top, share) = tree();
        let mut client = Client::attached(&share, ReadOnly, 0);
        // A Version forgets the fids, and a Clunk may end the root's.
        drop(client.call(kind, fields().bytes(&bytes)));
        prop_assert!(client.call(100, fields().u32(65536).text("9P2000.L")).is_ok());
        outside_is_untouched(top.path());
    }
}
