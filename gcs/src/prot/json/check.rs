//! The one scan that decides about syntax. It is a state machine with a bit for each open bracket.

/// Open objects and arrays together (Go's `encoding/json` has the same limit).
pub const MAX_DEPTH: usize = 10_000;

/// Where and why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Syntax {
    /// Offset in bytes from the start of the document.
    pub at: usize,
    pub what: &'static str,
}

/// Accepts exactly one JSON value with optional blanks around it.
///
/// # Errors
/// The first offence.
pub fn check(text: &[u8]) -> Result<(), Syntax> {
    let mut scan = Scan {
        text,
        at: 0,
        stack: Vec::new(),
    };
    scan.document()
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    /// Open brackets; true for an object.
    stack: Vec<bool>,
}

impl Scan<'_> {
    fn document(&mut self) -> Result<(), Syntax> {
        loop {
            // At the start of a value.
            self.blanks();
            match self.peek() {
                Some(b'{') => {
                    self.open(true)?;
                    self.blanks();
                    if self.peek() == Some(b'}') {
                        self.close();
                    } else {
                        self.name()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.open(false)?;
                    self.blanks();
                    if self.peek() == Some(b']') {
                        self.close();
                    } else {
                        continue;
                    }
                }
                Some(b'"') => self.string()?,
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                _ => return Err(self.err("a value is missing")),
            }
            // After a value: close what ends here, or go on to the next one.
            loop {
                self.blanks();
                let Some(&object) = self.stack.last() else {
                    return match self.peek() {
                        None => Ok(()),
                        Some(_) => Err(self.err("something follows the value")),
                    };
                };
                match (self.peek(), object) {
                    (Some(b','), true) => {
                        self.at += 1;
                        self.blanks();
                        self.name()?;
                        break;
                    }
                    (Some(b','), false) => {
                        self.at += 1;
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => self.close(),
                    _ => return Err(self.err("a comma or closing bracket is missing")),
                }
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn err(&self, what: &'static str) -> Syntax {
        Syntax { at: self.at, what }
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn open(&mut self, object: bool) -> Result<(), Syntax> {
        if self.stack.len() == MAX_DEPTH {
            return Err(self.err("nested too deep"));
        }
        self.stack.push(object);
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.stack.pop();
        self.at += 1;
    }

    /// A member name and its colon.
    fn name(&mut self) -> Result<(), Syntax> {
        if self.peek() != Some(b'"') {
            return Err(self.err("a member name is missing"));
        }
        self.string()?;
        self.blanks();
        if self.peek() != Some(b':') {
            return Err(self.err("a colon is missing"));
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), Syntax> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                        Some(b'u') => {
                            for _ in 0..4 {
                                self.at += 1;
                                if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                                    return Err(self.err("a hexadecimal digit is missing"));
                                }
                            }
                        }
                        _ => return Err(self.err("unknown escape")),
                    }
                    self.at += 1;
                }
                Some(0..=0x1f) => return Err(self.err("control character in a string")),
                Some(_) => self.at += 1,
                None => return Err(self.err("a string is cut short")),
            }
        }
    }

    fn number(&mut self) -> Result<(), Syntax> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Syntax> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return Err(self.err("a digit is missing"));
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self, literal: &[u8]) -> Result<(), Syntax> {
        if self.text[self.at..].starts_with(literal) {
            self.at += literal.len();
            Ok(())
        } else {
            Err(self.err("unknown word"))
        }
    }
}
