use std::fs;

use serde_json::json;

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\n  app:x:1000:1001::/:  \ntwin:x:7:7::/:\ntwin:x:8:8::/:\nsame1:x:50:51::/:\nsame2:x:50:52::/:\nbroken:x:::/:\nshort:x\nword:x:ten:10::/:\n";
const GROUP: &str = "root:x:0:\nstaff:x:20:app\ntwin:x:1:\ntwin:x:2:\nbad:x:y:\n";

fn lookup(name: &str) -> Option<(u32, u32)> {
    resolve(name, || Ok(PASSWD.into()), || Ok(GROUP.into())).ok()
}

#[test]
fn every_form_of_a_user_name() {
    for (name, ids) in [
        ("app", Some((1000, 1001))),
        ("1000", Some((1000, 1001))),
        ("+1000", Some((1000, 1001))),
        ("4000", Some((4000, 0))),
        ("50", Some((50, 0))),
        ("3:4", Some((3, 4))),
        ("3:staff", Some((3, 20))),
        ("app:5", Some((1000, 5))),
        ("app:staff", Some((1000, 20))),
        (":5", Some((0, 5))),
        ("7:", Some((7, 0))),
        ("app:", Some((1000, 0))),
        (":", Some((0, 0))),
        ("-0", Some((0, 0))),
        ("4294967295", Some((u32::MAX, 0))),
        ("4294967296", None),
        ("-1", None),
        ("3:-1", None),
        ("99999999999999999999999999:1", None),
        ("a:b:c", None),
        ("nobody", None),
        ("twin", None),
        ("broken", None),
        ("short", None),
        ("word", None),
        ("app:nogroup", None),
        ("app:twin", None),
        ("app:bad", None),
        ("App", None),
    ] {
        assert_eq!(lookup(name), ids, "{name}");
    }
}

#[test]
fn files_are_read_only_when_they_are_needed() {
    let none = || Err("no such file".to_owned());
    assert_eq!(resolve("3:4", none, none), Ok((3, 4)));
    assert_eq!(resolve("3", none, none), Ok((3, 0)));
    assert!(resolve("app", none, none).is_err());
    assert!(resolve("3:staff", none, none).is_err());
}

fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("rootfs/etc")).unwrap();
    fs::write(dir.path().join("rootfs/etc/passwd"), PASSWD).unwrap();
    fs::write(dir.path().join("rootfs/etc/group"), GROUP).unwrap();
    dir
}

fn outline(dir: &tempfile::TempDir) -> Outline {
    Outline {
        pod: Default::default(),
        own: Default::default(),
        log: None,
        root: dir.path().join("rootfs"),
        user: Value::Null,
        rlimits: Value::Null,
        sources: Vec::new(),
    }
}

#[test]
fn an_exec_takes_limits_and_user_from_its_container() {
    let dir = root();
    let limits = json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]);
    let container = |user: Value| Outline {
        user,
        rlimits: limits.clone(),
        ..outline(&dir)
    };
    let plain = container(json!({"uid": 1, "gid": 1}));
    let named = container(json!({"uid": 5, "gid": 6, "username": "x", "additionalGids": [9]}));
    for (container, user, wanted) in [
        (
            &plain,
            json!({"uid": 3, "gid": 4}),
            json!({"uid": 3, "gid": 4}),
        ),
        (
            &plain,
            json!({"username": "app"}),
            json!({"uid": 1000, "gid": 1001}),
        ),
        (
            &named,
            json!({"username": "app:staff"}),
            json!({"uid": 1000, "gid": 20}),
        ),
        (
            &named,
            json!({"uid": 3, "gid": 4}),
            json!({"uid": 5, "gid": 6, "username": "x", "additionalGids": [9]}),
        ),
    ] {
        let process = json!({"args": ["a"], "user": user, "rlimits": [], "x": 1});
        let user = exec_user(container, user).unwrap();
        let got = exec_process(container, process, user);
        assert_eq!(
            got,
            json!({"args": ["a"], "user": wanted, "rlimits": limits, "x": 1})
        );
    }
}

#[test]
fn a_container_without_limits_gives_none() {
    let dir = root();
    let process =
        json!({"args": ["a"], "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]});
    let user = exec_user(&outline(&dir), Value::Null).unwrap();
    let got = exec_process(&outline(&dir), process, user);
    assert_eq!(got, json!({"args": ["a"], "user": {}}));
}

#[test]
fn an_unknown_user_fails_the_exec_by_name() {
    let dir = root();
    let failure = exec_user(&outline(&dir), json!({"username": "ghost"})).unwrap_err();
    assert!(failure.message.contains("ghost"), "{failure}");
}
