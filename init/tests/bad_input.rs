//! What no host sends, at the real service: the right code each time, the next request works, and
//! nothing is left.

#![allow(clippy::disallowed_methods)] // The test is the host; it may wait for its child.

mod guest;

use gcs::prot::MessageId;
use guest::hostile::{self, Expect};
use guest::Guest;

/// What must not grow, by the state dump: (watched, open) descriptors, deadlines, children.
fn counts(guest: &mut Guest) -> Vec<String> {
    let dump = guest.dump();
    let counts = dump.lines().skip_while(|line| !line.starts_with("counts"));
    let counts = counts.take_while(|line| !line.starts_with("last log"));
    counts.map(str::to_owned).collect()
}

#[test]
fn every_bad_request_has_its_code_and_leaves_nothing() {
    let mut guest = Guest::start();
    guest.ignore_log();
    let before = counts(&mut guest);
    let cases = hostile::cases();
    assert!(cases.len() > 2000, "{} cases", cases.len());
    let mut wrong = Vec::new();
    let mut previous = 0;
    for case in cases {
        let sequence = guest.send_payload(MessageId(case.message), &case.payload);
        let answer = guest.answer(sequence);
        let code = answer["Result"].as_i64().expect("a Result") as u32;
        let right = match case.expect {
            Expect::Code(wanted) => code == wanted,
            Expect::LikePrevious => code == previous,
            Expect::Any => true,
        };
        if !right {
            let text = answer["ErrorMessage"].as_str().unwrap_or_default();
            wrong.push(format!(
                "{}: {code:#010x} {text}, not {:?}",
                case.name, case.expect
            ));
        }
        previous = code;
    }
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_eq!(counts(&mut guest), before);
    for path in [
        "/run/hostile",
        "/run/gcs/c/hostile",
        "/run/gcs/runtime/hostile",
    ] {
        assert!(!std::path::Path::new(path).exists(), "{path} is left");
    }
    let started = guest.execute(&["true"], None);
    assert_eq!(guest.exit_code(&started), 0);
}

/// Without `-v4` the retired protocol may begin, with a Create that is one.
#[test]
fn a_first_create_is_judged_before_anything_is_made() {
    const LAYERS: &str = r#"{"Layers":[{"Path":"0"}]"#;
    let document = |rest: &str| format!("{LAYERS}{rest}}}").replace('"', "\\\"");
    let create = |id: &str, config: &str| {
        format!("{{\"ContainerId\":\"{id}\",\"ContainerConfig\":\"{config}\"}}")
    };
    let mut guest = Guest::silent(&["-v4=false"]);
    for (payload, wanted) in [
        (String::new(), hostile::INVALID_JSON),
        ("[]".to_owned(), hostile::INVALID_JSON),
        ("{}".to_owned(), hostile::INVALID_JSON),
        (create("v1", ""), hostile::INVALID_JSON),
        (create("v1", "[]"), hostile::INVALID_JSON),
        (
            create("v1", &document(",\"SandboxDataPath\":1")),
            hostile::INVALID_JSON,
        ),
        (
            create("v1", &document(",\"MappedVirtualDisks\":[{\"Lun\":256}]")),
            hostile::INVALID_JSON,
        ),
        (
            create("v1", &document(",\"NetworkAdapters\":{}")),
            hostile::INVALID_JSON,
        ),
        // Nothing to make a root of: so is every document of today.
        (create("v1", "{}"), hostile::FAIL),
        (
            create("v1", &document(",\"MappedDirectories\":[{\"Port\":1}]")),
            hostile::FAIL,
        ),
        (create("../v1", &document("")), 0x8007_0057),
    ] {
        let sequence = guest.send_payload(MessageId::CREATE, payload.as_bytes());
        let answer = guest.answer(sequence);
        let code = answer["Result"].as_i64().expect("a Result") as u32;
        assert_eq!(code, wanted, "{payload}: {answer}");
    }
    // None of them began a session.
    guest.negotiate();

    let mut guest = Guest::silent(&[]);
    let sequence = guest.send_payload(MessageId::CREATE, create("v1", &document("")).as_bytes());
    let refused = guest.answer(sequence)["Result"].as_i64();
    assert_eq!(
        refused.map(|code| code as u32),
        Some(hostile::NOT_IMPLEMENTED)
    );
    guest.negotiate();
}
