//! Walks a text that has passed the [check](super::check). There is no other way to get a cursor,
//! so only a value of the wrong type can fail here.

use std::borrow::Cow;

use super::check::{check, Syntax};
use super::TypeError;

/// What stands at the cursor, told from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonKind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl JsonKind {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

/// A place in a checked document and the first type error met on the way.
pub struct Cursor<'t> {
    text: &'t [u8],
    at: usize,
    member: &'static str,
    error: Option<TypeError>,
}

impl<'t> Cursor<'t> {
    /// The beginning of `text`, which is one whole JSON document.
    ///
    /// # Errors
    /// It is not.
    pub fn open(text: &'t [u8]) -> Result<Self, Syntax> {
        check(text)?;
        Ok(Self {
            text,
            at: 0,
            member: "(document)",
            error: None,
        })
    }

    #[must_use]
    pub fn into_error(self) -> Option<TypeError> {
        self.error
    }

    /// Keeps `error` unless there is an earlier one.
    pub fn fail(&mut self, error: TypeError) {
        self.error.get_or_insert(error);
    }

    /// Notes that the value here is not `wanted`, and steps over it.
    pub fn mismatch(&mut self, wanted: &'static str) {
        let found = self.kind().text();
        self.misfit(wanted, found);
        self.skip();
    }

    /// Notes a value already read that does not fit.
    pub fn misfit(&mut self, wanted: &'static str, found: &'static str) {
        let member = self.member;
        self.fail(TypeError {
            member,
            wanted,
            found,
        });
    }

    /// The kind of the next value.
    pub fn kind(&mut self) -> JsonKind {
        match self.next_byte() {
            b'{' => JsonKind::Object,
            b'[' => JsonKind::Array,
            b'"' => JsonKind::String,
            b't' | b'f' => JsonKind::Bool,
            b'n' | 0 => JsonKind::Null,
            _ => JsonKind::Number,
        }
    }

    /// Steps over a `null`. Returns whether there was one.
    pub fn null(&mut self) -> bool {
        let null = self.kind() == JsonKind::Null;
        if null {
            self.scalar();
        }
        null
    }

    /// The text of a number or literal.
    pub fn scalar(&mut self) -> &'t str {
        self.blanks();
        let start = self.at;
        while !matches!(
            self.byte(),
            b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\r' | b'\n' | 0
        ) {
            self.at += 1;
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// The string here, unescaped. U+FFFD replaces what is not Unicode.
    pub fn string(&mut self) -> Cow<'t, str> {
        let raw = self.raw_string();
        if !raw.contains(&b'\\') {
            if let Ok(plain) = std::str::from_utf8(raw) {
                return Cow::Borrowed(plain);
            }
        }
        Cow::Owned(unescape(raw))
    }

    /// Calls `member` for each member of the object here, with the cursor at its value.
    /// It must consume the value.
    pub fn object(&mut self, mut member: impl FnMut(&str, &mut Self)) {
        let outer = self.member;
        self.next_byte();
        self.at += 1;
        while self.next_byte() == b'"' {
            let name = self.string();
            self.next_byte();
            self.at += 1; // colon
            member(&name, self);
            self.member = outer;
            if self.next_byte() == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
    }

    /// Calls `element` for each element of the array here. It must consume the element.
    pub fn array(&mut self, mut element: impl FnMut(&mut Self)) {
        self.next_byte();
        self.at += 1;
        while !matches!(self.next_byte(), b']' | 0) {
            element(self);
            if self.next_byte() == b',' {
                self.at += 1;
            }
        }
        self.at += 1;
    }

    /// Names the member whose value is being read, for errors.
    pub fn at_member(&mut self, name: &'static str) -> &mut Self {
        self.member = name;
        self
    }

    /// Steps over one value of any depth.
    pub fn skip(&mut self) {
        let mut depth = 0usize;
        loop {
            match self.next_byte() {
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                b'"' => {
                    self.raw_string();
                }
                b',' | b':' => {
                    self.at += 1;
                    continue;
                }
                0 => return,
                _ => {
                    self.scalar();
                }
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// This place, to read a value later or again.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.at
    }

    /// Goes back to a [`mark`](Self::mark) of this cursor.
    pub fn reset(&mut self, mark: usize) {
        self.at = mark;
    }

    fn byte(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn blanks(&mut self) {
        while let b' ' | b'\t' | b'\r' | b'\n' = self.byte() {
            self.at += 1;
        }
    }

    fn next_byte(&mut self) -> u8 {
        self.blanks();
        self.byte()
    }

    fn raw_string(&mut self) -> &'t [u8] {
        self.blanks();
        self.at += 1;
        let start = self.at;
        while self.at < self.text.len() && self.byte() != b'"' {
            self.at += if self.byte() == b'\\' { 2 } else { 1 };
        }
        let end = self.at.min(self.text.len());
        self.at = end + 1;
        self.text.get(start..end).unwrap_or_default()
    }
}

fn unescape(mut raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len());
    while let Some(at) = raw.iter().position(|&b| b == b'\\') {
        push_lossy(&mut out, &raw[..at]);
        raw = &raw[at + 1..];
        let Some((&escape, rest)) = raw.split_first() else {
            return out;
        };
        raw = rest;
        out.push(match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = hex4(raw);
                raw = raw.get(4..).unwrap_or_default();
                match raw.strip_prefix(b"\\u").map(hex4) {
                    Some(low @ 0xdc00..=0xdfff) if (0xd800..0xdc00).contains(&high) => {
                        raw = raw.get(6..).unwrap_or_default();
                        let pair = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                        char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                    _ => char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            other => char::from(other),
        });
    }
    push_lossy(&mut out, raw);
    out
}

fn hex4(raw: &[u8]) -> u32 {
    raw.iter().take(4).fold(0, |value, &digit| {
        value << 4 | char::from(digit).to_digit(16).unwrap_or(0)
    })
}

/// One U+FFFD for each byte that is not part of UTF-8, as Go counts them.
fn push_lossy(out: &mut String, mut bytes: &[u8]) {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => return out.push_str(text),
            Err(error) => {
                let (good, bad) = bytes.split_at(error.valid_up_to());
                out.push_str(std::str::from_utf8(good).unwrap_or_default());
                out.push(char::REPLACEMENT_CHARACTER);
                bytes = &bad[1..];
            }
        }
    }
}
