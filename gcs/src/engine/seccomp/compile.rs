//! A profile to classic BPF, as the kernel takes it (Documentation/userspace-api/seccomp_filter).
//!
//! ```text
//! other machine          ─▶ its action
//! number: by halves      ─▶ its action
//!                        └▶ conditions on arguments, rule after rule ─▶ action, or the default
//! ```
//!
//! The search by halves is short for every number, which counts twice: at each call whose
//! arguments matter, and at each load, when the kernel tries all numbers to learn which it may
//! always let through. Numbers that the profile does not know are intervals like the others.
//!
//! The code is laid out from its end to its start, since jumps only go forward: whoever jumps
//! knows where to.

use super::profile::{Action, Call, CallRule, Condition, Profile, Test, ALLOW, LOG, NO_SUCH_CALL};
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
/// How far a conditional jump may go, less the two instructions that may come between.
const FAR: usize = 253;

/// Operations of classic BPF.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const GO: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

pub(super) fn program(profile: &Profile) -> Result<Vec<Instruction>, String> {
    let mut code = Code::default();
    let by_number = code.search(&intervals(profile), profile.default);
    let start = code.load(NUMBER, by_number);
    let other_machine = code.end(profile.x86);
    // What comes next is `start`, unless the other machine's end had to go between.
    let test = code.jump(IF_EQUAL, X86_64, start, other_machine);
    code.load(MACHINE, test);
    code.finish()
}

/// What a number leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf<'a> {
    End(Action),
    Rules(&'a [CallRule]),
}

/// All 32-bit numbers, as the first of each interval with what it leads to.
fn intervals(profile: &Profile) -> Vec<(u32, Leaf<'_>)> {
    let known = profile.calls.iter().map(|call| match call {
        Call::Always(action) => Leaf::End(*action),
        Call::Rules(rules) => Leaf::Rules(rules),
    });
    // Programs try new calls and fall back when the kernel has none; EPERM ends them.
    let lenient = matches!(profile.default, ALLOW | LOG) || profile.calls.is_empty();
    let unknown = if lenient {
        profile.default
    } else {
        NO_SUCH_CALL
    };
    let newer = u32::try_from(profile.calls.len()).expect("as many as have a name");
    let others = [
        (newer, unknown),
        (X32, profile.x32),
        (NONE, profile.default),
    ];
    let others = others.map(|(first, action)| (first, Leaf::End(action)));
    let mut intervals: Vec<(u32, Leaf<'_>)> = (0..).zip(known).chain(others).collect();
    intervals.dedup_by(|(_, next), (_, before)| matches!(next, Leaf::End(_)) && next == before);
    intervals
}

/// Where an instruction is: how many come after it.
type Position = usize;

/// Instructions from the last to the first.
#[derive(Default)]
struct Code {
    backwards: Vec<Instruction>,
    /// The most recent end with each action.
    ends: Vec<(Action, Position)>,
}

impl Code {
    fn put(&mut self, instruction: Instruction) -> Position {
        self.backwards.push(instruction);
        self.backwards.len() - 1
    }

    /// How many instructions one that is put now would skip to get to `to`.
    fn distance(&self, to: Position) -> usize {
        self.backwards.len() - 1 - to
    }

    fn end(&mut self, action: Action) -> Position {
        let known = self.ends.iter().position(|(other, _)| *other == action);
        match known {
            Some(at) if self.distance(self.ends[at].1) <= FAR => self.ends[at].1,
            Some(at) => {
                self.ends[at].1 = self.put(Instruction::new(RETURN, 0, 0, action));
                self.ends[at].1
            }
            None => {
                let place = self.put(Instruction::new(RETURN, 0, 0, action));
                self.ends.push((action, place));
                place
            }
        }
    }

    /// `to`, or something nearer that leads there.
    fn near(&mut self, to: Position) -> Position {
        let over = self.distance(to);
        if over <= FAR {
            return to;
        }
        match self.backwards[to].parts() {
            (RETURN, _, _, action) => self.end(action),
            _ => {
                let over = u32::try_from(over).expect("longer programs do not get here");
                self.put(Instruction::new(GO, 0, 0, over))
            }
        }
    }

    fn jump(&mut self, test: u16, value: u32, yes: Position, no: Position) -> Position {
        let (yes, no) = (self.near(yes), self.near(no));
        let over = |to| u8::try_from(self.distance(to)).expect("near");
        let (yes, no) = (over(yes), over(no));
        self.put(Instruction::new(test, yes, no, value))
    }

    /// Falls through to what was put last, so that has to be `next`.
    fn load(&mut self, offset: u32, next: Position) -> Position {
        self.before(Instruction::new(LOAD, 0, 0, offset), next)
    }

    /// An instruction that is followed by `next`.
    fn before(&mut self, instruction: Instruction, next: Position) -> Position {
        if self.distance(next) > 0 {
            let over = u32::try_from(self.distance(next)).expect("longer programs do not get here");
            self.put(Instruction::new(GO, 0, 0, over));
        }
        self.put(instruction)
    }

    /// The number is loaded; it is at least the first of the intervals.
    fn search(&mut self, intervals: &[(u32, Leaf<'_>)], default: Action) -> Position {
        if let [(_, leaf)] = intervals {
            return match leaf {
                Leaf::End(action) => self.end(*action),
                Leaf::Rules(rules) => self.rules(rules, default),
            };
        }
        let (below, above) = intervals.split_at(intervals.len() / 2);
        let first = above[0].0;
        let above = self.search(above, default);
        let below = self.search(below, default);
        self.jump(IF_GREATER_OR_EQUAL, first, above, below)
    }

    fn rules(&mut self, rules: &[CallRule], default: Action) -> Position {
        let mut next = self.end(default);
        for rule in rules.iter().rev() {
            let mut holds = self.end(rule.action);
            for condition in rule.conditions.iter().rev() {
                holds = self.compare(condition, holds, next);
            }
            next = holds;
        }
        next
    }

    /// Compares the halves of a 64-bit argument from the high one down.
    fn compare(&mut self, condition: &Condition, yes: Position, no: Position) -> Position {
        let low = ARGUMENTS + 8 * condition.argument;
        let high = low + 4;
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        match condition.test {
            Test::Equal(value) => self.equal((high, low), None, halves(value), yes, no),
            Test::NotEqual(value) => self.equal((high, low), None, halves(value), no, yes),
            Test::Masked { mask, value } => {
                self.equal((high, low), Some(halves(mask)), halves(value), yes, no)
            }
            Test::Greater(value) => self.above((high, low), halves(value), IF_GREATER, yes, no),
            Test::GreaterOrEqual(value) => {
                self.above((high, low), halves(value), IF_GREATER_OR_EQUAL, yes, no)
            }
            Test::LessOrEqual(value) => self.above((high, low), halves(value), IF_GREATER, no, yes),
            Test::Less(value) => {
                self.above((high, low), halves(value), IF_GREATER_OR_EQUAL, no, yes)
            }
        }
    }

    /// Both halves are the same, as far as the mask goes.
    fn equal(
        &mut self,
        (high, low): (u32, u32),
        mask: Option<(u32, u32)>,
        (h, l): (u32, u32),
        yes: Position,
        no: Position,
    ) -> Position {
        let mut half = |offset: u32, mask: Option<u32>, value, yes| {
            let mut next = self.jump(IF_EQUAL, value, yes, no);
            if let Some(mask) = mask {
                next = self.before(Instruction::new(AND, 0, 0, mask), next);
            }
            self.load(offset, next)
        };
        let low = half(low, mask.map(|(_, l)| l), l, yes);
        half(high, mask.map(|(h, _)| h), h, low)
    }

    /// The high half is larger, or it is the same and the low half passes `test`.
    fn above(
        &mut self,
        (high, low): (u32, u32),
        (h, l): (u32, u32),
        test: u16,
        yes: Position,
        no: Position,
    ) -> Position {
        let lower = self.jump(test, l, yes, no);
        let lower = self.load(low, lower);
        let same = self.jump(IF_EQUAL, h, lower, no);
        let larger = self.jump(IF_GREATER, h, yes, same);
        self.load(high, larger)
    }

    fn finish(mut self) -> Result<Vec<Instruction>, String> {
        let length = self.backwards.len();
        if length > LONGEST {
            return Err(format!(
                "linux.seccomp: the filter has {length} instructions, the kernel takes {LONGEST}"
            ));
        }
        self.backwards.reverse();
        Ok(self.backwards)
    }
}
