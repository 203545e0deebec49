//! Splitting a `CommandLine` into arguments (protocol section 6.6).

/// Why a command line cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    #[error("a quote or parenthesis is not closed")]
    Unclosed,
    #[error("it ends with a backslash")]
    TrailingBackslash,
    #[error("an unquoted parenthesis")]
    Parenthesis,
}

/// The arguments in `line`. Nothing is expanded. Everything from the first unquoted operator of a
/// shell (`; & | < >`) on is dropped, and so are the digits directly before a `>`. `` `…` `` and
/// `$(…)` stay one literal piece. A line without arguments is no error here.
///
/// # Errors
/// Something is not closed, or an unquoted parenthesis.
pub fn split(line: &str) -> Result<Vec<String>, CommandLineError> {
    let mut args = Vec::new();
    let mut arg = String::new();
    // An empty quoted argument is an argument, blanks alone are not.
    let mut open = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => {
                if open {
                    args.push(std::mem::take(&mut arg));
                }
                open = false;
                continue;
            }
            ';' | '&' | '|' | '<' => break,
            '>' => {
                // `2>x`: the digit names a stream.
                if arg.starts_with(|c: char| c.is_ascii_digit()) {
                    open = false;
                }
                break;
            }
            '\'' => until(&mut chars, '\'', &mut arg)?,
            '"' => loop {
                match chars.next().ok_or(CommandLineError::Unclosed)? {
                    '"' => break,
                    '\\' => arg.push(chars.next().ok_or(CommandLineError::Unclosed)?),
                    other => arg.push(other),
                }
            },
            '\\' => arg.push(chars.next().ok_or(CommandLineError::TrailingBackslash)?),
            '`' => {
                arg.push('`');
                until(&mut chars, '`', &mut arg)?;
                arg.push('`');
            }
            '(' if arg.ends_with('$') => {
                arg.push('(');
                let inside = arg.len();
                until(&mut chars, ')', &mut arg)?;
                if arg[inside..].contains('(') {
                    return Err(CommandLineError::Parenthesis);
                }
                arg.push(')');
            }
            '(' | ')' => return Err(CommandLineError::Parenthesis),
            other => arg.push(other),
        }
        open = true;
    }
    if open {
        args.push(arg);
    }
    Ok(args)
}

fn until(
    chars: &mut std::str::Chars<'_>,
    end: char,
    arg: &mut String,
) -> Result<(), CommandLineError> {
    loop {
        match chars.next().ok_or(CommandLineError::Unclosed)? {
            c if c == end => return Ok(()),
            c => arg.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{split, CommandLineError};

    /// What the golden vectors leave open.
    #[test]
    fn corners_of_the_rules() {
        let args = |line: &str| split(line).map(|args| args.join("|"));
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
                args(line).as_deref().map_err(|error| *error),
                *want,
                "{line}"
            );
        }
    }
}
