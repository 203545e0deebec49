//! The kernel's log as records: `/dev/kmsg` in, log lines out (`-kmsgLogLevel`, P-307).
//!
//! Lines of this process are left out, because each would come back for ever. The service's
//! children cannot write to the log connection, so they write their records here as JSON. Those are
//! taken at any `-kmsgLogLevel` and become records again. Anybody who may write to `/dev/kmsg` can
//! write such a line, so all records that come this way have the member `kmsg`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde_json::Value;

use crate::log::{emit, tag, Level, Origin, Record};

/// One message of the kernel's log (Documentation/ABI/testing/dev-kmsg).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// 0 the kernel itself; others as in syslog(3).
    pub facility: u32,
    /// 0 (emergency) to 7 (debug).
    pub priority: u8,
    pub sequence: u64,
    /// Microseconds since the machine's start.
    pub stamp_us: u64,
    pub text: String,
}

/// Reads what one `read(2)` of `/dev/kmsg` gave: `prio,seq,usec,flags[,…];text\n` and lines of
/// ` KEY=value` that are left out. `None` when it is not of that form.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let split = bytes.iter().position(|b| *b == b';')?;
    let head = std::str::from_utf8(&bytes[..split]).ok()?;
    let mut numbers = head.split(',');
    let prefix: u32 = numbers.next()?.parse().ok()?;
    let sequence = numbers.next()?.parse().ok()?;
    let stamp_us = numbers.next()?.parse().ok()?;
    let text = bytes[split + 1..].split(|b| *b == b'\n').next()?;
    Some(Message {
        facility: prefix >> 3,
        priority: (prefix & 7) as u8,
        sequence,
        stamp_us,
        text: unescape(text),
    })
}

/// Undoes the kernel's `\xNN`.
fn unescape(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', b'x', digits @ ..] => digits
                .get(..2)
                .and_then(|hex| std::str::from_utf8(hex).ok())
                .and_then(|hex| u8::from_str_radix(hex, 16).ok()),
            _ => None,
        };
        let (byte, next) = match escaped {
            Some(byte) => (byte, &rest[4..]),
            None => (first, tail),
        };
        out.push(byte);
        rest = next;
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Message {
    /// Whether the line was written with that tag by a process, not by the kernel.
    fn is_from(&self, tag: &str) -> bool {
        let rest = self.text.strip_prefix(tag);
        self.facility != 0 && rest.is_some_and(|rest| rest.starts_with(':'))
    }

    /// The record of a line that one of our children wrote ([`Record::kmsg_json`]).
    fn of_child(&self) -> Option<Record> {
        let rest = self
            .text
            .strip_prefix("gcs[")
            .filter(|_| self.facility != 0)?;
        let (pid, json) = rest.split_once("]: ")?;
        let pid: u32 = pid.parse().ok()?;
        let Value::Object(mut members) = serde_json::from_str(json).ok()? else {
            return None;
        };
        let message = members.shift_remove("msg")?.as_str()?.to_owned();
        let mut record = Record::new(Level::of_priority(self.priority), message);
        record.origin = Origin::Kernel;
        for (name, value) in members {
            record.field(&name, value);
        }
        record.field("pid", pid);
        record.field("kmsg", self.sequence);
        Some(record)
    }

    fn record(&self) -> Record {
        let mut record = Record::new(Level::of_priority(self.priority), self.text.clone());
        record.origin = Origin::Kernel;
        record.field("kmsg", self.sequence);
        record.field("priority", self.priority);
        record.field("uptime_us", self.stamp_us);
        record
    }
}

/// The kernel log's reading end, for the loop to poll for input.
#[derive(Debug)]
pub struct Reader {
    file: File,
    /// Least urgent priority that is logged.
    level: u32,
}

impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Reader {
    /// Starts at the oldest message the kernel still has.
    ///
    /// # Errors
    /// When `/dev/kmsg` cannot be opened (no right, or a kernel without printk).
    pub fn open(level: u32) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open("/dev/kmsg")?;
        Ok(Self { file, level })
    }

    /// Logs at most `max` messages that are there now; the rest is for the next turn of the loop.
    ///
    /// # Errors
    /// When the device fails; it is of no further use then.
    pub fn relay(&mut self, max: usize) -> io::Result<()> {
        // Longest message with its dictionary (kernel: `PRINTK_MESSAGE_MAX`).
        let mut buffer = [0; 8192];
        let own = tag();
        for _ in 0..max {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => {
                    let message = parse(&buffer[..got]).filter(|m| !m.is_from(&own));
                    let record = message.and_then(|message| {
                        let wanted = u32::from(message.priority) <= self.level;
                        message
                            .of_child()
                            .or_else(|| wanted.then(|| message.record()))
                    });
                    if let Some(record) = record {
                        emit(record);
                    }
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN) => break,
                    // Messages were overwritten before we read them; the next read goes on.
                    Some(Errno::EPIPE | Errno::EINTR) => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_kernel_and_of_others() {
        for (line, want) in [
            (
                &b"6,339,5140900,-;NET: Registered protocol family 10\n"[..],
                Some((0, 6, 339, 5_140_900, "NET: Registered protocol family 10")),
            ),
            (
                b"30,340,5690716,-,caller=T1;gcs: text; more\n SUBSYSTEM=x\n DEVICE=+y\n",
                Some((3, 6, 340, 5_690_716, "gcs: text; more")),
            ),
            (
                b"4,1,0,c;a\\x0ab \\x5c \\xc3\\xa9 \\xzz \\x4",
                Some((0, 4, 1, 0, "a\nb \\ é \\xzz \\x4")),
            ),
            (b"7,2,3,-;", Some((0, 7, 2, 3, ""))),
            (b"", None),
            (b"no header", None),
            (b"x,1,2,-;text", None),
            (b"6;text", None),
            (b"\xff\xff,1,2;text", None),
        ] {
            let got = parse(line);
            let want = want.map(|(facility, priority, sequence, stamp_us, text)| Message {
                facility,
                priority,
                sequence,
                stamp_us,
                text: text.to_owned(),
            });
            assert_eq!(got, want, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn lines_of_children_become_what_they_were() {
        let mut sent = Record::new(Level::Warning, "tab\t, \u{e9} and \\".into());
        sent.field("cid", "c1");
        sent.field("message-id", 7);
        let line = sent.kmsg_json("gcs[12]");
        // As the kernel gives it out (Documentation/ABI/testing/dev-kmsg).
        let escaped: String = line["<28>".len()..]
            .trim_end()
            .bytes()
            .map(|byte| match byte {
                b'\\' | ..b' ' | 127.. => format!("\\x{byte:02x}"),
                _ => char::from(byte).to_string(),
            })
            .collect();
        let message = parse(format!("28,5,6,-;{escaped}\n").as_bytes()).expect("a message");
        let got = message.of_child().expect("it is of a child");
        assert_eq!((got.level, &got.message), (sent.level, &sent.message));
        assert_eq!(got.fields[..2], sent.fields[..]);
        assert_eq!(
            got.fields[2..],
            [("pid".into(), 12.into()), ("kmsg".into(), 5.into())]
        );
        for other in [
            "4,5,6,-;gcs[12]: {\"msg\":\"from the kernel\"}",
            "28,5,6,-;gcs[12]: text",
            "28,5,6,-;gcs[x]: {\"msg\":\"\"}",
            "28,5,6,-;gcs[12]: {\"msg\":7}",
            "28,5,6,-;gcs[12]: [1]",
        ] {
            let message = parse(other.as_bytes()).expect(other);
            assert_eq!(message.of_child(), None, "{other}");
        }
    }

    #[test]
    fn only_our_own_lines_are_ours() {
        for (line, ours) in [
            ("30,1,2,-;gcs[7]: hello", true),
            ("6,1,2,-;gcs[7]: from the kernel", false),
            ("30,1,2,-;gcs[71]: from a child", false),
            ("30,1,2,-;gcs[7]x: someone", false),
        ] {
            let message = parse(line.as_bytes()).expect(line);
            assert_eq!(message.is_from("gcs[7]"), ours, "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(bytes: Vec<u8>) {
            if let Some(message) = parse(&bytes) {
                proptest::prop_assert!(message.priority <= 7);
            }
        }
    }
}
