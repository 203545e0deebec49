//! User names of `process.user.username` (5.9), and what an exec takes over from its
//! container (6.4).

use std::path::Path;

use serde_json::Value;

use super::document::{object, required, text, top, Object};
use super::{inside, Outline};
use crate::error::Failure;

/// One side of `user:group`.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Number(u32),
    Name(&'a str),
}

impl<'a> Part<'a> {
    fn parse(text: &'a str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Number(0));
        }
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self::Name(text));
        }
        text.parse()
            .map(Self::Number)
            .or_else(|_| {
                digits
                    .bytes()
                    .all(|b| b == b'0')
                    .then_some(Self::Number(0))
                    .ok_or(())
            })
            .map_err(|()| format!("{text} is no user or group id"))
    }
}

/// The ids of a user name, given the texts of passwd and group when they are needed.
fn resolve(
    name: &str,
    passwd: impl FnOnce() -> Result<String, String>,
    group: impl FnOnce() -> Result<String, String>,
) -> Result<(u32, u32), String> {
    let mut sides = name.split(':');
    let user = sides.next().unwrap_or_default();
    let of_group = sides.next();
    if sides.next().is_some() {
        return Err(format!("user {name:?} holds more than one colon"));
    }
    let Some(of_group) = of_group else {
        return match Part::parse(user)? {
            // Without exactly one entry, or without the file, it is the group of root.
            Part::Number(uid) => {
                let passwd = passwd().unwrap_or_default();
                let mut found = users(&passwd).filter(|entry| entry.1 == uid);
                let gid = match (found.next(), found.next()) {
                    (Some(entry), None) => entry.2,
                    _ => 0,
                };
                Ok((uid, gid))
            }
            Part::Name(user) => user_by_name(&passwd()?, user),
        };
    };
    let uid = match Part::parse(user)? {
        Part::Number(uid) => uid,
        Part::Name(user) => user_by_name(&passwd()?, user)?.0,
    };
    let gid = match Part::parse(of_group)? {
        Part::Number(gid) => gid,
        Part::Name(name) => {
            let text = group()?;
            single("group", name, groups(&text).filter(|g| g.0 == name))?.1
        }
    };
    Ok((uid, gid))
}

fn user_by_name(passwd: &str, name: &str) -> Result<(u32, u32), String> {
    single("user", name, users(passwd).filter(|user| user.0 == name)).map(|user| (user.1, user.2))
}

fn single<T>(what: &str, name: &str, mut found: impl Iterator<Item = T>) -> Result<T, String> {
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(format!("{what} {name:?} is not known in the container")),
        _ => Err(format!(
            "{what} {name:?} has more than one entry in the container"
        )),
    }
}

/// (name, uid, gid) of each line of passwd(5) that has them.
fn users(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        Some((
            fields.next()?,
            fields.nth(1)?.parse().ok()?,
            fields.next()?.parse().ok()?,
        ))
    })
}

/// (name, gid) of each line of group(5) that has them.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}

/// Overwrites `uid` and `gid` of an OCI user by those of its `username` in the root file system.
/// Returns false when it has no name. Blocks.
pub(super) fn resolve_in(root: &Path, user: &mut Object) -> Result<bool, Failure> {
    let name = text(user, "username")?.to_owned();
    if name.is_empty() {
        return Ok(false);
    }
    let file = |path: &'static str| {
        move || inside::read(root, path).map_err(|e| format!("read {path} of the container: {e}"))
    };
    let (uid, gid) = resolve(&name, file("/etc/passwd"), file("/etc/group"))
        .map_err(|why| Failure::unspecified(format!("resolve user {name:?}: {why}")))?;
    user.insert("uid".into(), uid.into());
    user.insert("gid".into(), gid.into());
    Ok(true)
}

/// The same for the process of a whole spec. The name stays, because later execs depend on it.
pub(super) fn resolve_process(spec: &mut Object, root: &Path) -> Result<(), Failure> {
    let process = required(spec, "process")?;
    if process.get("user").is_some_and(|user| !user.is_null()) {
        resolve_in(root, object(process, "user")?)?;
    }
    Ok(())
}

/// The user that an exec runs as: its own or that of its container (6.4). It blocks, so run it in a
/// task.
pub fn exec_user(container: &Outline, mut user: Value) -> Result<Value, Failure> {
    if user.is_null() {
        user = Value::Object(Object::new());
    }
    let fields = top(&mut user)?;
    if resolve_in(&container.root, fields)? {
        fields.shift_remove("username");
        return Ok(user);
    }
    let named = container.user["username"].as_str();
    Ok(match named.is_some_and(|name| !name.is_empty()) {
        true => container.user.clone(),
        false => user,
    })
}

/// The process to run for an exec: as given, except for this user and the resource limits of the
/// container.
pub fn exec_process(container: &Outline, mut process: Value, user: Value) -> Value {
    if let Some(fields) = process.as_object_mut() {
        match &container.rlimits {
            Value::Null => drop(fields.shift_remove("rlimits")),
            limits => drop(fields.insert("rlimits".into(), limits.clone())),
        }
        fields.insert("user".into(), user);
    }
    process
}

#[cfg(test)]
#[path = "user_tests.rs"]
mod tests;
