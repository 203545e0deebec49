use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::sys::bpf::Insn;

/// What the program answers, by running it on a machine of eight registers.
fn answer(code: &[Insn], kind: DeviceKind, access: u8, major: u32, minor: u32) -> bool {
    let kind = match kind {
        DeviceKind::Block => 1,
        DeviceKind::Char => 2,
    };
    let context = [u32::from(access) << 16 | kind, major, minor];
    let mut r = [0_u64; 8];
    let mut at = 0;
    loop {
        let (op, to, from, offset, value) = code[at].parts();
        let (to, from, wide) = (usize::from(to), usize::from(from), value as i64 as u64);
        at += 1;
        match op {
            0x61 => r[to] = u64::from(context[usize::try_from(offset / 4).unwrap()]),
            0xb7 => r[to] = wide,
            0xbf => r[to] = r[from],
            0x57 => r[to] &= wide,
            0x5f => r[to] &= r[from],
            0x47 => r[to] |= wide,
            0xa7 => r[to] ^= wide,
            0x77 => r[to] >>= value,
            0x56 if r[to] as u32 != value as u32 => at += usize::try_from(offset).unwrap(),
            0x56 => {}
            0x95 => return r[0] == 1,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What cgroup v1 would answer to the lines that it is given: `match_exception` and
/// `match_exception_partial` of the kernel's security/device_cgroup.c.
fn answer_v1(lines: &[Line], kind: DeviceKind, access: u8, major: u32, minor: u32) -> bool {
    let (first, exceptions) = lines.split_first().unwrap();
    assert_eq!(first.text, "a");
    let letter = if kind == DeviceKind::Block { "b" } else { "c" };
    let mut fitting = exceptions.iter().filter_map(|line| {
        assert_ne!(line.allow, first.allow);
        let [of, numbers, granted] = line.text.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line:?}");
        };
        let (of_major, of_minor) = numbers.split_once(':').unwrap();
        let is = |text: &str, number: u32| text == "*" || text == number.to_string();
        let fits = of == letter && is(of_major, major) && is(of_minor, minor);
        fits.then(|| super::access(granted).unwrap())
    });
    if first.allow {
        !fitting.any(|denied| denied & access != 0)
    } else {
        fitting.any(|granted| access & !granted == 0)
    }
}

const R: u8 = READ;
const W: u8 = WRITE;
const M: u8 = MKNOD;
const B: DeviceKind = DeviceKind::Block;
const C: DeviceKind = DeviceKind::Char;

fn complete(given: &Value) -> Vec<DeviceRule> {
    rules(given.as_array().unwrap()).unwrap()
}

#[test]
fn the_last_rule_that_speaks_of_an_access_wins() {
    let code = program(&complete(&json!([
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": true, "type": "b", "major": 8, "access": "rwm"},
        {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"},
        {"allow": true, "major": 77, "minor": -1, "access": "r"},
        {"allow": true, "type": "c", "major": 4294967295_u32, "minor": 0, "access": "r"},
    ])));
    for (kind, access, major, minor, allowed) in [
        (C, R | W, 1, 3, true),
        (C, R | W, 10, 229, true),
        (C, M, 10, 229, true),
        (C, R, 10, 228, false),
        (B, R, 10, 229, false),
        (C, M, 99, 99, true),
        (B, M, 99, 99, true),
        (C, M | R, 99, 99, false),
        (B, R | W | M, 8, 0, true),
        (B, R, 8, 1, true),
        (B, W, 8, 1, false),
        (B, R | W, 8, 1, false),
        (C, R, 77, 5, true),
        (B, R, 77, 5, true),
        (B, W, 77, 5, false),
        (C, R, u32::MAX, 0, true),
        (C, R, u32::MAX, 1, false),
        (C, R | W, 136, 4000, true),
    ] {
        assert_eq!(
            answer(&code, kind, access, major, minor),
            allowed,
            "{kind:?} {access} {major}:{minor}"
        );
    }
}

#[test]
fn one_rule_can_allow_everything() {
    for rule in [
        json!({"allow": true, "access": "rwm"}),
        json!({"allow": true, "type": "a"}),
        json!({"allow": true, "type": "a", "major": -1, "minor": -1, "access": ""}),
    ] {
        let rules = complete(&json!([rule]));
        assert!(answer(&program(&rules), B, R | W | M, 200, 200));
        let lines = lines(&rules).unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].allow);
    }
}

#[test]
fn a_rule_becomes_its_tests_and_one_change() {
    let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"});
    let code = program(&[DeviceRule::of(&rule).unwrap()]);
    let of_rule: Vec<_> = code[5..11].iter().map(|i| i.parts()).collect();
    assert_eq!(
        of_rule,
        [
            (0x56, 2, 0, 5, 2),
            (0x61, 7, 1, 4, 0),
            (0x56, 7, 0, 3, 1),
            (0x61, 7, 1, 8, 0),
            (0x56, 7, 0, 1, 3),
            (0x47, 6, 0, 0, 6)
        ]
    );
    assert_eq!(code.len(), 5 + 6 + 6);
}

#[test]
fn rules_that_cannot_be_applied_are_errors() {
    for (rule, words) in [
        (json!({"allow": true, "type": "p"}), "type \"p\""),
        (json!({"allow": true, "access": "rx"}), "access \"rx\""),
        (json!({"allow": true, "major": 1_u64 << 32}), "major"),
        (json!({"allow": "yes"}), "boolean"),
        (json!({"type": "c"}), "allow"),
        (json!("x"), "string"),
    ] {
        let why = rules(&[json!({"allow": false}), rule]).unwrap_err();
        assert!(why.starts_with("linux.resources.devices[1]: "), "{why}");
        assert!(why.contains(words), "{why}");
    }
    let why = rules(&vec![json!({"allow": true}); MOST + 1]).unwrap_err();
    assert!(why.contains("2001 entries"), "{why}");
}

#[test]
fn v1_gets_a_default_and_exceptions() {
    let lines = |given| {
        let lines = lines(&complete(&given))?;
        let word = |allow| if allow { "allow" } else { "deny" };
        Ok::<_, String>(
            lines
                .iter()
                .map(|l| format!("{} {}", word(l.allow), l.text))
                .collect::<Vec<_>>(),
        )
    };
    let everybodys = ["allow c 1:3 rwm", "allow c 136:* rwm"];
    let got = lines(json!([
        {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "rw"},
        {"allow": false, "type": "b", "major": 8, "access": "w"},
        {"allow": true, "major": 7, "minor": 0, "access": "r"},
    ]))
    .unwrap();
    assert_eq!(got[0], "deny a");
    // To make any node is allowed, so also with that to read it.
    for line in [
        "allow b 8:1 rm",
        "allow b 7:0 rm",
        "allow c 7:0 rm",
        "allow c *:* m",
    ] {
        assert!(got.iter().any(|other| other == line), "{line}: {got:?}");
    }
    assert!(everybodys
        .iter()
        .all(|line| got.iter().any(|other| other == line)));

    let got =
        lines(json!([{"allow": true}, {"allow": false, "type": "b", "major": 8, "access": "rw"}]));
    assert_eq!(got.unwrap(), ["allow a", "deny b 8:* rw"]);
    let why = lines(json!([
        {"allow": true, "type": "b", "major": 8},
        {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"},
    ]));
    let why = why.unwrap_err();
    assert!(
        why.contains("deny \"b 8:1 w\"") && why.contains("\"b 8:* rwm\""),
        "{why}"
    );
}

fn any_rule() -> impl Strategy<Value = Value> {
    let number = || prop::sample::select(vec![-1_i64, 1, 3, 8]);
    let kind = prop::sample::select(vec!["a", "b", "c"]);
    let access = prop::sample::select(vec!["r", "w", "rw", "rwm", "m"]);
    (any::<bool>(), kind, number(), number(), access).prop_map(|(allow, kind, major, minor, access)| {
        json!({"allow": allow, "type": kind, "major": major, "minor": minor, "access": access})
    })
}

proptest! {
    /// v1 never grants what v2 denies. It may deny what two of its exceptions grant together
    /// only when neither covers the other.
    #[test]
    fn v1_and_v2_answer_alike(given in prop::collection::vec(any_rule(), 0..6)) {
        let rules = rules(&given).unwrap();
        let Ok(lines) = lines(&rules) else {
            return Ok(());
        };
        let code = program(&rules);
        for kind in [B, C] {
            for major in [1, 3, 8, 9] {
                for minor in [1, 3, 8, 9] {
                    for access in 1..=ALL {
                        let one = answer_v1(&lines, kind, access, major, minor);
                        let two = answer(&code, kind, access, major, minor);
                        let single = access.count_ones() == 1;
                        prop_assert!(one == two || (!one && !single), "{:?} {} {}:{}: {:?}", kind, access, major, minor, lines);
                    }
                }
            }
        }
    }
}
