//! Image and command line into a runtime spec.

use super::super::{standalone, ImageConfig, Process};
use super::*;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_string()).collect()
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: words(&["/entry"]),
        cmd: words(&["cmd"]),
        env: words(&["PATH=/bin", "A=1"]),
        cwd: "/srv".into(),
        user: "www".into(),
        stop_signal: None,
    }
}

#[test]
fn words_follow_docker() {
    type Words = Option<Vec<String>>;
    let (yes, no) = (Some(words(&["x", "y"])), None);
    let table: [(Words, Words, &[&str]); 4] = [
        (no.clone(), no.clone(), &["/entry", "cmd"]),
        (yes.clone(), no.clone(), &["/entry", "x", "y"]),
        (no, Some(words(&["/other"])), &["/other"]),
        (yes, Some(words(&[])), &["x", "y"]),
    ];
    for (args, entrypoint, expected) in table {
        let process = Process {
            args,
            entrypoint,
            ..Process::default()
        };
        assert_eq!(
            standalone(&image(), &process, "/r")["process"]["args"],
            json!(expected)
        );
    }
}

#[test]
fn the_last_setting_of_a_variable_counts() {
    let process = Process {
        env: words(&["A=2", "B=3"]),
        ..Process::default()
    };
    let spec = standalone(&image(), &process, "/r");
    assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "A=2", "B=3"]));
    let spec = standalone(
        &ImageConfig::default(),
        &Process {
            terminal: true,
            ..Process::default()
        },
        "/r",
    );
    assert!(spec["process"]["env"][0]
        .as_str()
        .unwrap()
        .starts_with("PATH=/usr/local/sbin:"));
    assert_eq!(spec["process"]["env"][1], "TERM=xterm");
    assert_eq!(spec["process"]["cwd"], "/");
}

#[test]
fn users_by_number_are_final_and_names_are_left_to_the_guest() {
    let table = [
        ("", json!({"uid": 0, "gid": 0})),
        ("5:6", json!({"uid": 5, "gid": 6})),
        ("7", json!({"uid": 7, "gid": 0, "username": "7"})),
        ("me", json!({"uid": 0, "gid": 0, "username": "me"})),
        ("me:6", json!({"uid": 0, "gid": 0, "username": "me:6"})),
    ];
    for (user, expected) in table {
        let process = Process {
            user: Some(user.into()),
            ..Process::default()
        };
        assert_eq!(
            standalone(&image(), &process, "/r")["process"]["user"],
            expected
        );
    }
}

#[test]
fn the_whole_is_a_valid_runtime_spec() {
    let spec = standalone(&image(), &Process::default(), "/run/gcs/c/x/rootfs");
    let parsed: oci_spec::runtime::Spec = serde_json::from_value(spec.clone()).unwrap();
    assert_eq!(parsed.mounts().as_ref().unwrap().len(), 7);
    assert_eq!(
        parsed
            .linux()
            .as_ref()
            .unwrap()
            .namespaces()
            .as_ref()
            .unwrap()
            .len(),
        5
    );
    assert_eq!(
        parsed.root().as_ref().unwrap().path(),
        Path::new("/run/gcs/c/x/rootfs")
    );
    assert_eq!(
        spec["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        14
    );
}
