//! Names of types. A name that many types of a crate have says nothing about any of them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::lex::{Kind, Token};
use crate::source::{code, files};

/// How many types of a crate may have the same name. What stands in tests does not count.
const MOST: usize = 2;

/// The names that too many types of the crate in `src` have, each with the places.
///
/// # Errors
/// A file cannot be read.
pub fn repeated(src: &Path) -> Result<Vec<String>, String> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files(src)? {
        for (name, line) in defined(&code(&file.text)) {
            let place = format!("{}:{line}", file.shown);
            places.entry(name.into()).or_default().push(place);
        }
    }
    places.retain(|_, places| places.len() > MOST);
    let repeated = places.into_iter().map(|(name, mut places)| {
        places.sort();
        let count = places.len();
        format!("{count} types are named {name}: {}", places.join(", "))
    });
    Ok(repeated.collect())
}

/// The types that are defined, each with its line. An associated type is none: its trait has named it.
fn defined<'a>(code: &[Token<'a>]) -> Vec<(&'a str, usize)> {
    let (mut found, mut blocks, mut is_associated) = (Vec::new(), Vec::new(), false);
    for pair in code.windows(2) {
        match (pair[0].kind, pair[1].kind) {
            (Kind::Sign('{'), _) => blocks.push(std::mem::take(&mut is_associated)),
            (Kind::Sign('}'), _) => drop(blocks.pop()),
            (Kind::Sign(';'), _) => is_associated = false,
            (Kind::Word("impl"), _) => is_associated = true,
            (Kind::Word("type"), Kind::Word(_)) if blocks.last() == Some(&true) => {}
            (
                Kind::Word(item @ ("struct" | "enum" | "union" | "trait" | "type")),
                Kind::Word(name),
            ) => {
                found.push((name, pair[1].line));
                is_associated |= item == "trait";
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_what_defines_them() {
        let table: [(&str, &[&str]); 8] = [
            ("pub struct A<'a>(&'a u8); enum B { C, D }", &["A", "B"]),
            (
                "type A = B; trait C: D {} union E { f: u8 }",
                &["A", "C", "E"],
            ),
            ("impl A for B { type C = D; fn f() {} } struct E;", &["E"]),
            ("trait A { type B; fn c(); } type D = E;", &["A", "D"]),
            (
                "fn f() { struct A; impl B for A { type C = D; } type E = F; }",
                &["A", "E"],
            ),
            ("fn f(a: impl B); type C = D;", &["C"]),
            ("let a = B::r#type; // struct C\nlet d = \"enum E\";", &[]),
            ("#[cfg(test)] mod tests { struct A; } struct B;", &["B"]),
        ];
        for (source, expected) in table {
            let found = defined(&code(source));
            let names: Vec<&str> = found.into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, expected, "{source}");
        }
    }

    #[test]
    fn a_third_type_of_a_name_is_one_too_many() {
        let src = std::env::temp_dir().join(format!("tree-check-types-{}", std::process::id()));
        std::fs::create_dir_all(&src).unwrap();
        let third = [("", 0), ("enum Kind {}", 1)];
        for (third, expected) in third {
            let root = format!("mod a;\nstruct Kind;\n{third}");
            std::fs::write(src.join("lib.rs"), root).unwrap();
            std::fs::write(src.join("a.rs"), "type Kind = u8;\nstruct Other;").unwrap();
            let got = repeated(&src).unwrap();
            assert_eq!(got.len(), expected, "{got:?}");
            assert!(
                got.iter()
                    .all(|one| one.starts_with("3 types are named Kind: ")),
                "{got:?}"
            );
        }
        std::fs::remove_dir_all(&src).unwrap();
    }
}
