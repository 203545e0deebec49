use std::fs;

use serde_json::{json, Value};

use super::*;
use crate::bundle::testing::{minimal, mode, workload, TestBundle};

/// Names and contents of the files in a security context.
type Files = &'static [(&'static str, &'static str)];

fn reference() -> Security {
    Security {
        reference: "cmVm".into(),
        ..Security::default()
    }
}

fn both() -> Security {
    Security {
        policy: "cG9s".into(),
        ..reference()
    }
}

fn cases() -> [(Value, Security, Files); 6] {
    let annotated = |mut spec: Value, name: &str, value: &str| {
        spec["annotations"][name] = json!(value);
        spec
    };
    let (reference, both) = (reference(), both());
    [
        (minimal(), Security::default(), &[]),
        (
            minimal(),
            reference.clone(),
            &[("reference-info-base64", "cmVm")],
        ),
        (
            workload(),
            both.clone(),
            &[
                ("reference-info-base64", "cmVm"),
                ("security-policy-base64", "cG9s"),
            ],
        ),
        (
            annotated(minimal(), AMD_CERTIFICATE, "Y2VydA=="),
            Security::default(),
            &[("host-amd-cert-base64", "Y2VydA==")],
        ),
        (annotated(minimal(), SECURITY_ENV, "False"), both, &[]),
        (
            annotated(minimal(), SECURITY_ENV, "maybe"),
            reference,
            &[("reference-info-base64", "cmVm")],
        ),
    ]
}

#[test]
fn what_the_host_gave_is_in_files_that_the_environment_names() {
    let mut place = TestBundle::new();
    let root = place.bundle("one").join("rootfs");
    fs::create_dir_all(&root).unwrap();
    let contexts = || {
        fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().contains("security-context-"))
            .collect::<Vec<_>>()
    };
    for (mut spec, security, files) in cases() {
        spec["process"]["env"] = json!(["A=b"]);
        place.context.security = security;
        let got = place.prepare("one", &spec).unwrap();
        let env = got.config["process"]["env"].as_array().unwrap();
        let made = contexts();
        if files.is_empty() {
            assert_eq!((env.len(), made.len()), (1, 0), "{spec}");
            continue;
        }
        let [dir] = made.as_slice() else {
            panic!("{made:?} for {spec}");
        };
        assert_eq!(mode(dir), 0o755);
        let name = dir.file_name().unwrap().to_str().unwrap();
        assert_eq!(env[1], json!(format!("{VARIABLE}=/{name}")));
        let mut there: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                assert_eq!(mode(&path), 0o744);
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        there.sort();
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        assert_eq!(there, files, "{spec}");
        got.prepared.shared.undo(|_| false);
        assert_eq!(contexts().len(), 0);
    }
    // A root that cannot be written is an error, and nothing is left of the rest.
    place.context.security = both();
    let spec = {
        let mut spec = minimal();
        spec["root"]["path"] = json!("/proc/self");
        spec
    };
    let failure = place.prepare("two", &spec).unwrap_err();
    assert!(failure.message.contains("security context"), "{failure}");
    assert!(!place.bundle("two").exists());
}
