//! Splitting a `CommandLine` into words (protocol section 6.6).

/// Why a command line has no words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    #[error("a quote or parenthesis is not closed")]
    Unclosed,
    #[error("it ends with a backslash")]
    TrailingBackslash,
    #[error("an unquoted parenthesis")]
    Parenthesis,
}

/// The words of `line`. Nothing is expanded; everything from the first unquoted operator of a
/// shell (`; & | < >`) on is dropped, also the digits directly before a `>`. `` `…` `` and
/// `$(…)` stay one literal piece. No words at all is no error here.
///
/// # Errors
/// Something is not closed, or an unquoted parenthesis.
pub fn split(line: &str) -> Result<Vec<String>, CommandLineError> {
    let mut words = Vec::new();
    let mut word = String::new();
    // An empty quoted word is a word, blanks alone are not.
    let mut open = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => {
                if open {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
                continue;
            }
            ';' | '&' | '|' | '<' => break,
            '>' => {
                // `2>x`: the digit names a stream.
                if word.starts_with(|c: char| c.is_ascii_digit()) {
                    open = false;
                }
                break;
            }
            '\'' => until(&mut chars, '\'', &mut word)?,
            '"' => loop {
                match chars.next().ok_or(CommandLineError::Unclosed)? {
                    '"' => break,
                    '\\' => word.push(chars.next().ok_or(CommandLineError::Unclosed)?),
                    other => word.push(other),
                }
            },
            '\\' => word.push(chars.next().ok_or(CommandLineError::TrailingBackslash)?),
            '`' => {
                word.push('`');
                until(&mut chars, '`', &mut word)?;
                word.push('`');
            }
            '(' if word.ends_with('$') => {
                word.push('(');
                let inside = word.len();
                until(&mut chars, ')', &mut word)?;
                if word[inside..].contains('(') {
                    return Err(CommandLineError::Parenthesis);
                }
                word.push(')');
            }
            '(' | ')' => return Err(CommandLineError::Parenthesis),
            other => word.push(other),
        }
        open = true;
    }
    if open {
        words.push(word);
    }
    Ok(words)
}

fn until(
    chars: &mut std::str::Chars<'_>,
    end: char,
    word: &mut String,
) -> Result<(), CommandLineError> {
    loop {
        match chars.next().ok_or(CommandLineError::Unclosed)? {
            c if c == end => return Ok(()),
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{split, CommandLineError};

    /// What the golden vectors leave open.
    #[test]
    fn corners_of_the_rules() {
        let words = |line: &str| split(line).map(|words| words.join("|"));
        let cases: &[(&str, Result<&str, CommandLineError>)] = &[
            ("''", Ok("")),
            ("a'' ''b", Ok("a|b")),
            ("x2>y", Ok("x2")),
            ("a 12>y", Ok("a")),
            ("a <b", Ok("a")),
            (";", Ok("")),
            ("a '2'>b", Ok("a")),
            ("`a; b` c", Ok("`a; b`|c")),
            ("x$(a | b)y", Ok("x$(a | b)y")),
            ("$(a (b))", Err(CommandLineError::Parenthesis)),
            ("a)", Err(CommandLineError::Parenthesis)),
            ("a '(' b", Ok("a|(|b")),
            ("a \\( b", Ok("a|(|b")),
            ("`a", Err(CommandLineError::Unclosed)),
            ("$(a", Err(CommandLineError::Unclosed)),
            ("\"a\\", Err(CommandLineError::Unclosed)),
        ];
        for (line, want) in cases {
            assert_eq!(
                words(line).as_deref().map_err(|error| *error),
                *want,
                "{line}"
            );
        }
    }
}
