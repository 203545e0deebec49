//! What the makers of a process tell PID 1 over the channel.
//!
//! ```text
//! P{...}           from the process itself or its task, with a descriptor of the process
//! +<descriptors>;  from the process itself: ready; with its terminal, if it has one
//! -{...}           from either: why it is not
//! ```
//!
//! The messages of two may come in any order. At the end of the channel a process that said
//! nothing is dead.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Bare, Container, Made};
use crate::error::Failure;
use crate::sys::channel;

/// Longest text of a failure, in characters: a message has to fit into the socket.
const LONGEST: usize = 8 * 1024;

/// Longest [`reason`], in bytes: a character may take six in JSON.
pub const REASON_MAX: usize = 64 * 1024;

/// Who was made. The descriptors come in the order of the members, that of the process first.
#[derive(Debug, Serialize, Deserialize)]
struct Birth {
    pid: i32,
    bare: bool,
    filter: bool,
    container: Option<Container>,
    warnings: Vec<String>,
}

/// All that was told.
#[derive(Debug, Default)]
pub struct Told {
    pub pid: Option<i32>,
    pub process: Option<OwnedFd>,
    /// Of an init: what further processes of its container need.
    pub container: Option<Container>,
    /// What of the specification was left out, each a line for the log.
    pub warnings: Vec<String>,
    /// Made on the way, for the next container: see [`super::Bare`].
    pub bare: Option<OwnedFd>,
    pub ready: bool,
    pub terminal: Option<OwnedFd>,
    pub failure: Option<Failure>,
}

/// A process has been made; `bare` is what was made for later ones, `container` what its init is
/// the first process of, with warnings about its specification.
pub fn made(
    to: BorrowedFd<'_>,
    made: &Made,
    bare: Option<&Bare>,
    container: Option<(Container, &[String])>,
) -> Result<(), Failure> {
    let (container, warnings) = container.unzip();
    let mut birth = Birth {
        pid: made.pid.as_raw(),
        bare: bare.is_some(),
        filter: false,
        container,
        warnings: warnings.map(<[String]>::to_vec).unwrap_or_default(),
    };
    let filter = birth
        .container
        .as_mut()
        .and_then(|container| container.filter.take());
    birth.filter = filter.is_some();
    let fds = std::iter::once(made.as_fd()).chain(bare.map(AsFd::as_fd));
    let fds: Vec<_> = fds.chain(filter.as_ref().map(AsFd::as_fd)).collect();
    let mut text = vec![b'P'];
    serde_json::to_writer(&mut text, &birth)
        .map_err(|error| Failure::unspecified(format!("tell the service: {error}")))?;
    send(to, &text, &fds)
}

/// This process is set up.
pub fn ready(to: BorrowedFd<'_>, terminal: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
    let fds: Vec<_> = terminal.into_iter().collect();
    send(to, format!("+{};", fds.len()).as_bytes(), &fds)
}

/// It failed. Whoever does not hear it sees the channel end.
pub fn failed(to: BorrowedFd<'_>, failure: &Failure) {
    let text = [b"-", reason(failure).as_slice()].concat();
    channel::send_all(to, &text, &[]).ok();
}

/// Why a process that was ready has not executed its program, for its control socket.
pub fn reason(failure: &Failure) -> Vec<u8> {
    let message = failure.message.chars().take(LONGEST).collect();
    let short = Failure {
        message,
        ..failure.clone()
    };
    serde_json::to_vec(&short).unwrap_or_default()
}

/// What [`reason`] has written.
pub fn read_reason(text: &[u8]) -> Failure {
    serde_json::from_slice(text)
        .unwrap_or_else(|_| Failure::unspecified(String::from_utf8_lossy(text)))
}

fn send(to: BorrowedFd<'_>, text: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    channel::send_all(to, text, fds)
        .map_err(|errno| Failure::unspecified(format!("tell the service: {}", errno.desc())))
}

impl Told {
    /// From the texts of all messages and the descriptors that came with them, in order.
    ///
    /// # Errors
    /// None of the above forms.
    pub fn read(mut text: &[u8], fds: Vec<OwnedFd>) -> Result<Self, Failure> {
        let unusable = || Failure::unspecified("the engine's report is unusable");
        let mut fds = fds.into_iter();
        let mut told = Self::default();
        while let Some((tag, rest)) = text.split_first() {
            text = rest;
            match tag {
                b'P' => {
                    let birth: Birth = value(&mut text).ok_or_else(unusable)?;
                    told.pid = Some(birth.pid);
                    told.process = fds.next();
                    told.bare = if birth.bare { fds.next() } else { None };
                    let filter = if birth.filter { fds.next() } else { None };
                    told.container = birth.container.map(|container| Container {
                        filter,
                        ..container
                    });
                    told.warnings = birth.warnings;
                }
                b'+' => {
                    told.ready = true;
                    if number(&mut text).ok_or_else(unusable)? > 0 {
                        told.terminal = fds.next();
                    }
                }
                b'-' => {
                    let failure = value(&mut text).ok_or_else(unusable)?;
                    told.failure = told.failure.or(Some(failure));
                }
                _ => return Err(unusable()),
            }
        }
        Ok(told)
    }
}

/// A JSON value, which is taken off.
fn value<T: DeserializeOwned>(text: &mut &[u8]) -> Option<T> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter();
    let value = values.next()?.ok()?;
    *text = &text[values.byte_offset()..];
    Some(value)
}

/// Digits up to a semicolon, which are taken off.
fn number(text: &mut &[u8]) -> Option<i32> {
    let end = text.iter().position(|byte| *byte == b';')?;
    let digits = std::str::from_utf8(&text[..end]).ok()?;
    *text = &text[end + 1..];
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    fn fd() -> OwnedFd {
        crate::sys::fds::null().unwrap()
    }

    #[test]
    fn the_messages_of_two_processes_come_in_any_order() {
        let birth = |bare| {
            format!(r#"P{{"pid":7,"bare":{bare},"filter":false,"container":null,"warnings":[]}}"#)
        };
        let plain = birth(false);
        for text in [format!("{plain}+1;"), format!("+1;{plain}")] {
            let told = Told::read(text.as_bytes(), vec![fd(), fd()]).unwrap();
            assert_eq!((told.pid, told.ready), (Some(7), true), "{text}");
            assert!(told.process.is_some() && told.terminal.is_some(), "{text}");
        }
        let failure = Failure::unspecified("a;b}\n");
        let json = serde_json::to_string(&failure).unwrap();
        for text in [
            format!("-{json}{}", birth(true)),
            format!("{}-{json}", birth(true)),
        ] {
            let told = Told::read(text.as_bytes(), vec![fd(), fd()]).unwrap();
            assert_eq!(
                (told.pid, told.failure),
                (Some(7), Some(failure.clone())),
                "{text}"
            );
            assert!(told.bare.is_some() && !told.ready);
        }
        let reason = Failure::unspecified("a").of_execve(Errno::ENOENT);
        assert_eq!(read_reason(&super::reason(&reason)), reason);
        let cut = read_reason(b"{\"code\":1");
        assert_eq!(cut.message, "{\"code\":1");
        for text in ["x", "P", "P{}", "+", "-{", "+x;"] {
            assert!(Told::read(text.as_bytes(), Vec::new()).is_err(), "{text}");
        }
        assert!(Told::read(b"", Vec::new()).unwrap().pid.is_none());
    }
}
