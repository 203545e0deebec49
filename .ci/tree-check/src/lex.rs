//! Rust source cut into the pieces that the checks look at.

/// A piece of source, with the number of its line, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token<'a> {
    pub line: usize,
    pub kind: Kind<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    Word(&'a str),
    /// `::`
    Path,
    Sign(char),
    /// With its slashes or stars.
    Comment(&'a str),
}

/// Cuts source into tokens. White space, numbers, characters and texts are left out: nothing in them
/// is a path.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let (mut rest, mut line, mut tokens) = (source, 1, Vec::new());
    while let Some(first) = rest.chars().next() {
        let (length, kind) = match first {
            '/' if rest.starts_with("//") => {
                let length = rest.find('\n').unwrap_or(rest.len());
                (length, Some(Kind::Comment(&rest[..length])))
            }
            '/' if rest.starts_with("/*") => {
                let length = block_comment(rest);
                (length, Some(Kind::Comment(&rest[..length])))
            }
            '"' => (text(rest), None),
            '\'' => (character_or_lifetime(rest), None),
            ':' if rest.starts_with("::") => (2, Some(Kind::Path)),
            _ if first.is_alphanumeric() || first == '_' => word_or_text(rest),
            _ if first.is_whitespace() => (first.len_utf8(), None),
            _ => (first.len_utf8(), Some(Kind::Sign(first))),
        };
        tokens.extend(kind.map(|kind| Token { line, kind }));
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of a block comment, in which others may be nested.
fn block_comment(source: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < source.len() {
        match &source.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    source.len()
}

/// The length of a text in quotes, with its quotes.
fn text(source: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in source.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    source.len()
}

/// `'x'` and `'\n'` are characters; `'x` without a second quote is a lifetime, of which only the quote
/// is taken.
fn character_or_lifetime(source: &str) -> usize {
    let mut chars = source.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => source[3..].find('\'').map_or(1, |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

/// A word, or a text with a prefix: `b"..."`, `r#"..."#`.
fn word_or_text(source: &str) -> (usize, Option<Kind<'_>>) {
    let end = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_');
    let length = end(source).unwrap_or(source.len());
    let (word, rest) = source.split_at(length);
    let raw = matches!(word, "r" | "br" | "cr");
    let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
    if raw && rest[hashes..].starts_with('"') {
        let close = format!("\"{}", "#".repeat(hashes));
        let begin = length + hashes + 1;
        let inside = source[begin..].find(&close);
        let end = inside.map_or(source.len(), |at| begin + at + close.len());
        return (end, None);
    }
    if matches!(word, "b" | "c") && rest.starts_with('"') {
        return (length + text(rest), None);
    }
    if word == "b" && rest.starts_with('\'') {
        return (length + character_or_lifetime(rest), None);
    }
    let number = word.starts_with(|c: char| c.is_ascii_digit());
    (length, (!number).then_some(Kind::Word(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<&str> {
        let tokens = tokens(source).into_iter();
        tokens
            .filter_map(|token| match token.kind {
                Kind::Word(word) => Some(word),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn texts_characters_and_comments_have_no_words() {
        let table = [
            ("a \"b \\\" c\" d", vec!["a", "d"]),
            ("a r#\"b \" c\"# d", vec!["a", "d"]),
            ("a b\"b\" br\"c\" d", vec!["a", "d"]),
            ("a 'b' '\\'' '\\u{7f}' b'x' d", vec!["a", "d"]),
            ("a<'b, 'static> c", vec!["a", "b", "static", "c"]),
            ("a // b\nc /* d /* e */ f */ g", vec!["a", "c", "g"]),
            ("a 12 0x1f r2", vec!["a", "r2"]),
            ("'\"' a '\"' b", vec!["a", "b"]),
        ];
        for (source, expected) in table {
            assert_eq!(words(source), expected, "{source}");
        }
    }

    #[test]
    fn lines_are_counted_through_texts_and_comments() {
        let source = "a\n\"b\nb\"\n/* c\nc */ d";
        let last = tokens(source).pop().unwrap();
        assert_eq!((last.line, last.kind), (5, Kind::Word("d")));
    }
}
