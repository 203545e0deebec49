//! Rules to classic BPF, as the kernel takes it (Documentation/userspace-api/seccomp_filter).
//!
//! ```text
//! other machine, x32      ─▶ their verdicts
//! number in a range       ─▶ its verdict      (no argument looked at: the kernel caches these)
//! number and conditions   ─▶ the verdict      (one block per rule, in their order)
//! newer than the profile  ─▶ ENOSYS
//! else                    ─▶ the default
//! ```
//!
//! All jumps stay within their block, so that none is too long for its eight bits.

use super::profile::{Condition, Profile, Rule, Test, Verdict, ALLOW, ERRNO, LOG};
use crate::sys::seccomp::Instruction;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;
/// Bit of the numbers of x32 calls.
const X32: u32 = 0x4000_0000;
/// Number of a call that a tracer took out.
const NONE: u32 = u32::MAX;

/// What the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// Operations of classic BPF.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const fn load(offset: u32) -> Instruction {
    Instruction::new(LOAD, 0, 0, offset)
}

const fn end(verdict: Verdict) -> Instruction {
    Instruction::new(RETURN, 0, 0, verdict)
}

/// Skips `yes` instructions if the test holds, else `no`.
const fn jump(test: u16, value: u32, yes: u8, no: u8) -> Instruction {
    Instruction::new(test, yes, no, value)
}

pub(super) fn program(profile: &Profile) -> Result<Vec<Instruction>, String> {
    let mut code = vec![
        load(MACHINE),
        jump(IF_EQUAL, X86_64, 1, 0),
        end(profile.x86),
        load(NUMBER),
        jump(IF_GREATER_OR_EQUAL, X32, 0, 2),
        jump(IF_EQUAL, NONE, 1, 0),
        end(profile.x32),
    ];
    for (first, last, verdict) in ranges(profile) {
        code.push(jump(IF_GREATER_OR_EQUAL, first, 0, 2));
        code.push(jump(IF_GREATER, last, 1, 0));
        code.push(end(verdict));
    }
    for rule in &profile.rules {
        block(rule, &mut code);
    }
    let unknown = ERRNO | libc::ENOSYS.cast_unsigned();
    let allows = matches!(profile.default, ALLOW | LOG);
    if let (Some(newest), false) = (profile.newest, allows) {
        // Programs try new calls and fall back when the kernel has none; EPERM ends them.
        code.extend([
            load(NUMBER),
            jump(IF_GREATER, newest, 0, 2),
            jump(IF_EQUAL, NONE, 1, 0),
            end(unknown),
        ]);
    }
    code.push(end(profile.default));
    if code.len() > LONGEST {
        return Err(format!(
            "linux.seccomp: the filter has {} instructions, the kernel takes {LONGEST}",
            code.len()
        ));
    }
    Ok(code)
}

/// Neighbours with the same verdict, as (first, last, verdict).
fn ranges(profile: &Profile) -> Vec<(u32, u32, Verdict)> {
    let mut ranges: Vec<(u32, u32, Verdict)> = Vec::new();
    for (&number, &verdict) in &profile.always {
        match ranges.last_mut() {
            Some((_, last, same)) if *last + 1 == number && *same == verdict => *last = number,
            _ => ranges.push((number, number, verdict)),
        }
    }
    // The common verdict first: most calls are let through.
    ranges.sort_by_key(|(_, _, verdict)| *verdict != ALLOW);
    ranges
}

/// Where a jump out of a block goes, until the length of the block is known.
const TO_NEXT_RULE: u8 = u8::MAX;

fn block(rule: &Rule, code: &mut Vec<Instruction>) {
    let start = code.len();
    code.push(load(NUMBER));
    code.push(jump(IF_EQUAL, rule.number, 0, TO_NEXT_RULE));
    for condition in &rule.conditions {
        compare(condition, code);
    }
    code.push(end(rule.verdict));
    let next = code.len();
    for (at, instruction) in code.iter_mut().enumerate().skip(start) {
        // Six conditions of six instructions: it fits.
        let over = u8::try_from(next - at - 1).expect("a block is short");
        instruction.resolve(TO_NEXT_RULE, over);
    }
}

/// Goes on behind itself when the condition holds. The halves of a 64-bit argument are compared
/// from the high one down.
fn compare(condition: &Condition, code: &mut Vec<Instruction>) {
    const NO: u8 = TO_NEXT_RULE;
    let low = ARGUMENTS + 8 * condition.argument;
    let high = low + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    match condition.test {
        Test::Equal(value) => {
            let (h, l) = halves(value);
            code.extend([
                load(high),
                jump(IF_EQUAL, h, 0, NO),
                load(low),
                jump(IF_EQUAL, l, 0, NO),
            ]);
        }
        Test::NotEqual(value) => {
            let (h, l) = halves(value);
            code.extend([
                load(high),
                jump(IF_EQUAL, h, 0, 2),
                load(low),
                jump(IF_EQUAL, l, NO, 0),
            ]);
        }
        Test::Greater(value) => above(high, low, halves(value), IF_GREATER, code),
        Test::GreaterOrEqual(value) => above(high, low, halves(value), IF_GREATER_OR_EQUAL, code),
        Test::LessOrEqual(value) => below(high, low, halves(value), IF_GREATER, code),
        Test::Less(value) => below(high, low, halves(value), IF_GREATER_OR_EQUAL, code),
        Test::Masked { mask, value } => {
            let ((mask_h, mask_l), (h, l)) = (halves(mask), halves(value));
            code.extend([
                load(high),
                Instruction::new(AND, 0, 0, mask_h),
                jump(IF_EQUAL, h, 0, NO),
                load(low),
                Instruction::new(AND, 0, 0, mask_l),
                jump(IF_EQUAL, l, 0, NO),
            ]);
        }
    }
}

/// The high half is larger, or the same and the low half passes `test`.
fn above(high: u32, low: u32, (h, l): (u32, u32), test: u16, code: &mut Vec<Instruction>) {
    code.extend([
        load(high),
        jump(IF_GREATER, h, 3, 0),
        jump(IF_EQUAL, h, 0, TO_NEXT_RULE),
        load(low),
        jump(test, l, 0, TO_NEXT_RULE),
    ]);
}

/// The opposite of [`above`].
fn below(high: u32, low: u32, (h, l): (u32, u32), test: u16, code: &mut Vec<Instruction>) {
    code.extend([
        load(high),
        jump(IF_GREATER, h, TO_NEXT_RULE, 0),
        jump(IF_EQUAL, h, 0, 2),
        load(low),
        jump(test, l, TO_NEXT_RULE, 0),
    ]);
}
