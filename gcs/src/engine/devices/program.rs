//! Rules to the program that cgroup v2 asks at every open and mknod of a device.

use super::{DeviceKind, DeviceRule, ALL};
use crate::sys::bpf::Insn;

/// Types of `bpf_cgroup_dev_ctx` (`BPF_DEVCG_DEV_*`).
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// Offsets in `bpf_cgroup_dev_ctx`.
const MAJOR: i16 = 4;
const MINOR: i16 = 8;

/// The `BPF_PROG_TYPE_CGROUP_DEVICE` program for `rules`.
///
/// r1 context, r2 type, r3 wanted access, r6 granted access, r7 the number that is compared. It
/// is read again for each comparison: what a test says of r7 is forgotten with the next rule, so
/// that the time to verify grows with the number of rules and not with its square.
#[must_use]
pub fn program(rules: &[DeviceRule]) -> Vec<Insn> {
    use Insn as I;
    let all = i32::from(ALL);
    let mut code = vec![
        I::load32(2, 1, 0),
        I::mov_reg(3, 2),
        I::and(2, 0xffff),
        I::shift_right(3, 16),
        I::mov(6, 0),
    ];
    for rule in rules {
        let kind = rule.kind.map(|kind| match kind {
            DeviceKind::Block => BLOCK,
            DeviceKind::Char => CHAR,
        });
        let numbers = [(MAJOR, rule.major), (MINOR, rule.minor)];
        let numbers = numbers.map(|(offset, number)| number.map(|number| (offset, number)));
        // Each test jumps over the tests after it and the one change.
        let mut left = 2 * numbers.iter().flatten().count() as i16 + 1;
        if let Some(kind) = kind {
            code.push(I::jump_if_ne32(2, kind, left));
        }
        for (offset, number) in numbers.into_iter().flatten() {
            left -= 2;
            code.push(I::load32(7, 1, offset));
            code.push(I::jump_if_ne32(7, number.cast_signed(), left));
        }
        let access = i32::from(rule.access);
        code.push(if rule.allow {
            I::or(6, access)
        } else {
            I::and(6, all & !access)
        });
    }
    code.extend([
        I::xor(6, all),
        I::and_reg(3, 6),
        I::mov(0, 0),
        I::jump_if_ne32(3, 0, 1),
        I::mov(0, 1),
        I::exit(),
    ]);
    code
}
