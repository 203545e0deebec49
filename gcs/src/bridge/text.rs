//! Texts of messages, made to fit.

const CUT_NOTE: &str = " … (shortened)";

/// `text` if its JSON form has at most `limit` bytes, else its beginning with a note.
pub fn fit(text: &str, limit: usize) -> String {
    let mut size = 0;
    for (at, c) in text.char_indices() {
        size += json_size(c);
        if size > limit {
            let kept = shorten(text, at);
            return format!("{kept}{CUT_NOTE}");
        }
    }
    text.to_owned()
}

/// Bytes of a text inside a JSON string as serde_json writes it.
#[must_use]
pub fn json_length(text: &str) -> usize {
    text.chars().map(json_size).sum()
}

fn json_size(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    }
}

/// At most `limit` bytes of `text`.
pub fn shorten(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
