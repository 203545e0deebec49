use serde_json::json;

use super::*;

/// What the program answers, by running it on a machine of nine registers.
fn answer(code: &[Insn], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let context = [access << 16 | kind, major, minor];
    let mut r = [0_u64; 7];
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

const R: u32 = 2;
const W: u32 = 4;
const M: u32 = 1;
const B: u32 = 1;
const C: u32 = 2;

fn compile(given: &Value) -> Vec<Insn> {
    let rules = complete(given.as_array().unwrap());
    program(&parse(&rules).unwrap()).unwrap()
}

#[test]
fn the_last_rule_that_speaks_of_an_access_wins() {
    let rules = json!([
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": true, "type": "b", "major": 8, "access": "rwm"},
        {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"},
        {"allow": true, "major": 77, "minor": -1, "access": "r"},
        {"allow": true, "type": "c", "major": 4294967295_u32, "minor": 0, "access": "r"},
    ]);
    let code = compile(&rules);
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
            "{kind} {access} {major}:{minor}"
        );
    }
}

#[test]
fn one_rule_can_allow_everything() {
    let code = compile(&json!([{"allow": true, "access": "rwm"}]));
    assert!(answer(&code, B, R | W | M, 200, 200));
    let code = compile(&json!([{"allow": true, "type": "a"}]));
    assert!(answer(&code, C, R | W | M, 200, 200));
}

#[test]
fn a_rule_becomes_its_tests_and_one_change() {
    let rule = json!([{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}]);
    let code = program(&parse(rule.as_array().unwrap()).unwrap()).unwrap();
    let of_rule: Vec<_> = code[7..11].iter().map(|i| i.parts()).collect();
    assert_eq!(
        of_rule,
        [
            (0x56, 2, 0, 3, 2),
            (0x56, 4, 0, 2, 1),
            (0x56, 5, 0, 1, 3),
            (0x47, 6, 0, 0, 6)
        ]
    );
    assert_eq!(code.len(), 7 + 4 + 6);
}

#[test]
fn rules_that_cannot_be_applied_are_errors() {
    for rule in [
        json!({"allow": true, "type": "p"}),
        json!({"allow": true, "access": "rx"}),
        json!({"allow": "yes"}),
        json!({"type": "c"}),
        json!("x"),
    ] {
        assert!(parse(std::slice::from_ref(&rule)).is_err(), "{rule}");
    }
}
