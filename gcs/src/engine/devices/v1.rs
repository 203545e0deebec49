//! Rules to what cgroup v1 keeps: one default and the exceptions from it
//! (Documentation/admin-guide/cgroup-v1/devices.rst).
//!
//! The kernel does not read the lines that it is given as rules in order: it takes exactly the
//! same exception away again or adds one. So the rules are worked out here, and those that come
//! to something that it cannot hold are refused.

use super::{DeviceKind, DeviceRule, ALL};

/// A text for one of the two files of a container's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `devices.allow`, or else `devices.deny`.
    pub allow: bool,
    pub text: String,
}

/// What to write, in this order. The group is new and has no groups below it.
pub fn lines(rules: &[DeviceRule]) -> Result<Vec<Line>, String> {
    let mut allow = false;
    let mut exceptions: Vec<DeviceRule> = Vec::new();
    for rule in rules {
        if rule.is_total() {
            allow = rule.allow;
            exceptions.clear();
            continue;
        }
        let kinds = match rule.kind {
            Some(kind) => vec![kind],
            None => vec![DeviceKind::Block, DeviceKind::Char],
        };
        for kind in kinds {
            let rule = DeviceRule {
                kind: Some(kind),
                ..*rule
            };
            if rule.allow == allow {
                take_away(rule, &mut exceptions)?;
            } else {
                add(rule, &mut exceptions);
            }
        }
    }
    let first = Line {
        allow,
        text: "a".into(),
    };
    let rest = exceptions.iter().map(|exception| Line {
        allow: exception.allow,
        // One exception has to hold all that is wanted: it gets what the wider ones have.
        text: DeviceRule {
            access: exceptions
                .iter()
                .filter(|wider| covers(wider, exception))
                .fold(0, |bits, wider| bits | wider.access),
            ..*exception
        }
        .to_string(),
    });
    Ok([first].into_iter().chain(rest).collect())
}

fn add(rule: DeviceRule, exceptions: &mut Vec<DeviceRule>) {
    let same = exceptions
        .iter_mut()
        .find(|other| covers(other, &rule) && covers(&rule, other));
    match same {
        Some(same) => same.access |= rule.access,
        None => exceptions.push(rule),
    }
}

fn take_away(rule: DeviceRule, exceptions: &mut Vec<DeviceRule>) -> Result<(), String> {
    for exception in exceptions.iter_mut() {
        if covers(&rule, exception) {
            exception.access &= ALL & !rule.access;
        } else if meet(&rule, exception) && rule.access & exception.access != 0 {
            let verb = |allow| if allow { "allow" } else { "deny" };
            return Err(format!(
                "linux.resources.devices: cgroup v1 cannot {} {rule:?} after a rule to {} {exception:?}, \
                 of which it is a part: name the devices one by one",
                verb(rule.allow),
                verb(exception.allow),
                rule = rule.to_string(),
                exception = exception.to_string(),
            ));
        }
    }
    exceptions.retain(|exception| exception.access != 0);
    Ok(())
}

/// Whether every device of `narrow` is one of `wide`.
fn covers(wide: &DeviceRule, narrow: &DeviceRule) -> bool {
    let number = |wide: Option<u32>, narrow| wide.is_none() || wide == narrow;
    wide.kind == narrow.kind && number(wide.major, narrow.major) && number(wide.minor, narrow.minor)
}

/// Whether there are devices of both.
fn meet(one: &DeviceRule, other: &DeviceRule) -> bool {
    let number =
        |one: Option<u32>, other: Option<u32>| one.is_none() || other.is_none() || one == other;
    one.kind == other.kind && number(one.major, other.major) && number(one.minor, other.minor)
}
