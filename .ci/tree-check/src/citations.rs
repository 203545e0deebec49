//! Sections ("protocol 6.5") and requirements ("P-041") that the tree cites, held against the document
//! that has them. Comments of Rust sources are looked at, and all other texts as a whole.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::lex::{tokens, Kind};
use crate::{entries, read, Findings};

const DOCUMENT: &str = "gcs/PROTOCOL.md";
const ENDINGS: [&str; 9] = [
    "rs", "sh", "md", "toml", "json", "config", "patch", "ps1", "c",
];
/// What is built.
const SKIPPED: [&str; 3] = [".git", "target", "out"];

/// # Errors
/// A file cannot be read.
pub fn check(top: &Path) -> Result<Findings, String> {
    let document = read(&top.join(DOCUMENT))?;
    let known: BTreeSet<&str> = sections(&document).chain(requirements(&document)).collect();
    let (mut findings, mut count) = (Vec::new(), 0);
    for path in files(top)? {
        let text = read(&path)?;
        let shown = path
            .strip_prefix(top)
            .unwrap_or(&path)
            .display()
            .to_string();
        for (line, part) in parts(&path, &text) {
            for cited in cited(part).into_iter() {
                count += 1;
                if !known.contains(cited) {
                    findings.push(format!("{shown}:{line}: {DOCUMENT} has no {cited}"));
                }
            }
        }
    }
    println!("{count} citations of {DOCUMENT}");
    Ok(findings)
}

/// The files to look at.
fn files(top: &Path) -> Result<Vec<PathBuf>, String> {
    let (mut files, mut dirs) = (Vec::new(), vec![top.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for path in entries(&dir)? {
            let name = path.file_name().unwrap_or_default();
            let ending = path.extension().and_then(|ending| ending.to_str());
            if path.is_dir() {
                if !SKIPPED.iter().any(|skipped| name == *skipped) {
                    dirs.push(path);
                }
            } else if ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// The texts in a file that may cite, each with its line.
fn parts<'a>(path: &Path, text: &'a str) -> Vec<(usize, &'a str)> {
    if path.extension().is_some_and(|ending| ending == "rs") {
        let comments = tokens(text)
            .into_iter()
            .filter_map(|token| match token.kind {
                Kind::Comment(comment) => Some((token.line, comment)),
                _ => None,
            });
        return comments.collect();
    }
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .collect()
}

/// The numbers of the document's headings.
fn sections(document: &str) -> impl Iterator<Item = &str> {
    let headings = document.lines().filter_map(|line| line.strip_prefix('#'));
    headings.filter_map(|heading| {
        let number = heading.trim_start_matches('#').split_whitespace().next()?;
        number
            .starts_with(|c: char| c.is_ascii_digit())
            .then_some(number)
    })
}

/// All of the form P-041.
fn requirements(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("P-").filter_map(|(at, _)| {
        let before = text[..at].chars().next_back();
        let digits = digits(&text[at + 2..]);
        let whole = digits == 3 && !before.is_some_and(char::is_alphanumeric);
        whole.then(|| &text[at..at + 5])
    })
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// What a text cites: requirements and sections. "protocol 3" is the protocol of that version.
fn cited(text: &str) -> Vec<&str> {
    let mut cited: Vec<&str> = requirements(text).collect();
    for (at, word) in text.match_indices("protocol ") {
        let mut rest = &text[at + word.len()..];
        let mut first = true;
        loop {
            let (number, after) = rest.split_at(number(rest));
            if number.is_empty() || (first && !number.contains('.')) {
                break;
            }
            cited.push(number);
            first = false;
            let Some(next) = [", ", " and ", " to "]
                .iter()
                .find_map(|join| after.strip_prefix(join))
            else {
                break;
            };
            rest = next;
        }
    }
    cited
}

/// The length of a number of sections at the beginning: 7, 6.10, 4.9.1.
fn number(text: &str) -> usize {
    let mut length = digits(text);
    while length > 0 && text[length..].starts_with('.') {
        match digits(&text[length + 1..]) {
            0 => break,
            more => length += 1 + more,
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn citations_are_found() {
        let table: [(&str, &[&str]); 8] = [
            ("as protocol 6.5 says.", &["6.5"]),
            ("(protocol 4.9.1).", &["4.9.1"]),
            (
                "protocol 4.10, 7 and 6.8, 3 of them",
                &["4.10", "7", "6.8", "3"],
            ),
            ("protocol 3, protocol 4", &[]),
            ("P-041, P-042.", &["P-041", "P-042"]),
            ("P-150-170", &["P-150"]),
            ("HTTP-200, P-1, P-1234, P-", &[]),
            ("the protocol has 6.5", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(cited(text), expected, "{text}");
        }
    }

    #[test]
    fn sections_are_the_numbers_of_headings() {
        let document = "# The bridge\n## 1 Frames\n### 1.2 Size\nText 1.3\n#### 1.2.1\n";
        assert_eq!(
            sections(document).collect::<Vec<_>>(),
            ["1", "1.2", "1.2.1"]
        );
    }
}
