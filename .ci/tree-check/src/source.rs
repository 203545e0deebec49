//! The sources of a crate without what only tests have.

use std::path::Path;

use crate::lex::{tokens, Kind, Token};
use crate::read;

pub struct File {
    /// The names from the root of the crate to this module.
    pub module: Vec<String>,
    pub shown: String,
    pub text: String,
}

/// The files of the crate whose source is in `src`: its roots, and the modules that they declare.
///
/// # Errors
/// A file cannot be read.
pub fn files(src: &Path) -> Result<Vec<File>, String> {
    let mut files = Vec::new();
    for root in ["lib.rs", "main.rs"] {
        let path = src.join(root);
        if path.exists() {
            collect(&path, src, &[], &mut files)?;
        }
    }
    Ok(files)
}

/// Reads a file and those of the modules that it declares. `dir` is where these are looked for.
fn collect(
    path: &Path,
    dir: &Path,
    module: &[String],
    files: &mut Vec<File>,
) -> Result<(), String> {
    let text = read(path)?;
    for name in declared(&text) {
        let module = [module, std::slice::from_ref(&name)].concat();
        let below = dir.join(&name);
        let file = [dir.join(format!("{name}.rs")), below.join("mod.rs")];
        if let Some(file) = file.iter().find(|file| file.exists()) {
            collect(file, &below, &module, files)?;
        }
    }
    files.push(File {
        module: module.to_vec(),
        shown: shown(path),
        text,
    });
    Ok(())
}

/// The end of a path, which is what people look for.
fn shown(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let src = parts.iter().rposition(|part| part == "src").unwrap_or(0);
    parts[src..].join("/")
}

/// The tokens without comments and without what only tests have.
pub fn code(text: &str) -> Vec<Token<'_>> {
    let mut all = tokens(text);
    all.retain(|token| !matches!(token.kind, Kind::Comment(_)));
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < all.len() {
        if is_for_tests(&all[at..]) {
            at = end_of_item(&all, at);
        } else {
            kept.push(all[at].clone());
            at += 1;
        }
    }
    kept
}

fn is_for_tests(tokens: &[Token<'_>]) -> bool {
    use Kind::{Sign, Word};
    let attribute = [
        Sign('#'),
        Sign('['),
        Word("cfg"),
        Sign('('),
        Word("test"),
        Sign(')'),
        Sign(']'),
    ];
    let kinds = tokens.iter().map(|token| token.kind);
    tokens.len() >= attribute.len() && kinds.zip(attribute).all(|(one, other)| one == other)
}

/// Where the item ends whose attributes begin at `at`: after its `;`, its block or its comma, or before
/// the bracket that it stands in ends.
fn end_of_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    let mut depth = 0_u32;
    while let Some(token) = tokens.get(at) {
        match token.kind {
            Kind::Sign('(' | '[' | '{') => depth += 1,
            Kind::Sign(')' | ']' | '}') if depth == 0 => return at,
            Kind::Sign(close @ (')' | ']' | '}')) => {
                depth -= 1;
                if depth == 0 && close == '}' {
                    return at + 1;
                }
            }
            Kind::Sign(';' | ',') if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

/// The modules that a file declares and does not hold itself.
fn declared(text: &str) -> Vec<String> {
    let code = code(text);
    let declarations = code.windows(3).filter_map(|window| {
        let [first, second, third] = window else {
            return None;
        };
        match (first.kind, second.kind, third.kind) {
            (Kind::Word("mod"), Kind::Word(name), Kind::Sign(';')) => Some(name.to_owned()),
            _ => None,
        }
    });
    declarations.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_tests_are_left_out() {
        let table = [
            ("#[cfg(test)] mod a; mod b;", vec!["b"]),
            ("#[cfg(test)] #[path = \"c.rs\"] mod a; mod b;", vec!["b"]),
            ("#[cfg(test)] use a::{b}; mod b;", vec!["b"]),
            (
                "#[cfg(test)] fn f(a: u8) { g(); } mod b; mod c { }",
                vec!["b"],
            ),
            ("#[cfg(unix)] mod a;", vec!["a"]),
        ];
        for (source, expected) in table {
            assert_eq!(declared(source), expected, "{source}");
        }
    }
}
