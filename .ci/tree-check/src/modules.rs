//! Which top-level module of a crate uses which other, by the paths in its source that begin with
//! `crate` or `super`. What only tests have does not count.

use std::collections::BTreeMap;
use std::path::Path;

use crate::graph::Graph;
use crate::lex::{Kind, Token};
use crate::source::{code, files};

/// The graph of the crate whose source is in `src`. A crate without modules has an empty one.
///
/// # Errors
/// A file cannot be read.
pub fn graph(src: &Path) -> Result<Graph, String> {
    let mut graph = Graph::default();
    let files = files(src)?;
    let names: Vec<String> = files
        .iter()
        .filter_map(|file| file.module.first())
        .cloned()
        .collect();
    // What the root of a crate passes on counts as use of the module that has it.
    let mut passed_on = BTreeMap::new();
    for file in files.iter().filter(|file| file.module.is_empty()) {
        for path in root_uses(&file.text) {
            if let [module, .., item] = path.names.as_slice() {
                passed_on.insert(item.clone(), module.clone());
            }
        }
    }
    for name in &names {
        graph.node(name);
    }
    for file in &files {
        let Some(from) = file.module.first() else {
            continue;
        };
        for path in paths(&file.text, &file.module) {
            let Some(first) = path.names.first() else {
                continue;
            };
            let to = match names.contains(first) {
                true => Some(first),
                false => passed_on.get(first),
            };
            if let Some(to) = to.filter(|to| names.contains(to)) {
                let place = || format!("{}:{}", file.shown, path.line);
                graph.edge(from, to, place);
            }
        }
    }
    Ok(graph)
}

/// A path in source, from the root of the crate.
#[derive(Debug, PartialEq, Eq)]
struct UsePath {
    names: Vec<String>,
    line: usize,
}

/// All paths of the module's source that begin with `crate` or `super`.
fn paths(text: &str, module: &[String]) -> Vec<UsePath> {
    let code = code(text);
    let (mut found, mut inline, mut depth, mut at) = (Vec::new(), Vec::new(), 0, 0);
    while let Some(token) = code.get(at) {
        let after = |by: usize| code.get(at + by).map(|token| token.kind);
        match token.kind {
            Kind::Word("mod") if after(2) == Some(Kind::Sign('{')) => {
                if let Some(Kind::Word(name)) = after(1) {
                    inline.push((name.to_owned(), depth));
                }
            }
            Kind::Sign('{') => depth += 1,
            Kind::Sign('}') => {
                depth -= 1;
                inline.retain(|(_, outside)| *outside < depth);
            }
            Kind::Word("crate" | "super") if after(1) == Some(Kind::Path) => {
                let inner = inline.iter().map(|(name, _)| name.clone());
                let here: Vec<String> = module.iter().cloned().chain(inner).collect();
                at = tree(&code, at, here, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// What the root of a crate takes from its modules by `use`.
fn root_uses(text: &str) -> Vec<UsePath> {
    let (code, mut found) = (code(text), Vec::new());
    for at in 0..code.len() {
        if code[at].kind == Kind::Word("use") {
            tree(&code, at + 1, Vec::new(), &mut found);
        }
    }
    found
}

/// Reads a path, or several in braces, that begins at `at` below `above`; where it ends.
fn tree(
    code: &[Token<'_>],
    mut at: usize,
    mut above: Vec<String>,
    found: &mut Vec<UsePath>,
) -> usize {
    while let Some(token) = code.get(at) {
        match token.kind {
            Kind::Word("crate") => above.clear(),
            Kind::Word("super") => drop(above.pop()),
            Kind::Word("self") => {}
            Kind::Word(name) => above.push(name.into()),
            Kind::Sign('{') => {
                at += 1;
                loop {
                    match code.get(at).map(|token| token.kind) {
                        None | Some(Kind::Sign('}')) => break,
                        Some(Kind::Word(_) | Kind::Sign('{')) => {
                            at = tree(code, at, above.clone(), found)
                        }
                        Some(_) => at += 1,
                    }
                }
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        if code.get(at).map(|token| token.kind) != Some(Kind::Path) {
            break;
        }
        at += 1;
    }
    let line = code.get(at.saturating_sub(1)).map_or(0, |token| token.line);
    found.push(UsePath { names: above, line });
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(paths: Vec<UsePath>) -> Vec<String> {
        paths
            .into_iter()
            .map(|path| path.names.join("::"))
            .collect()
    }

    #[test]
    fn paths_are_found_from_the_root() {
        let table: [(&str, &[&str]); 9] = [
            ("use crate::a::b;", &["a::b"]),
            (
                "use crate::{a, b::{c, d}, f::*};",
                &["a", "b::c", "b::d", "f"],
            ),
            ("use super::b;", &["x::b"]),
            ("use super::super::b;", &["b"]),
            (
                "fn f() { crate::a::b(1, super::c::<u8>()) }",
                &["a::b", "x::c"],
            ),
            (
                "mod m { use super::b; use super::super::c; } use super::d;",
                &["x::y::b", "x::c", "x::d"],
            ),
            ("pub(crate) use std::a; pub(super) fn f() {}", &[]),
            ("// use crate::a;\nlet a = \"crate::a\";", &[]),
            (
                "#[cfg(test)]\nmod tests { use crate::a; }\nuse crate::b;",
                &["b"],
            ),
        ];
        for (source, expected) in table {
            let got = shown(paths(source, &["x".into(), "y".into()]));
            assert_eq!(got, expected, "{source}");
        }
    }

    #[test]
    fn a_crate_in_files_has_its_graph() {
        let src = std::env::temp_dir().join(format!("tree-check-{}", std::process::id()));
        std::fs::create_dir_all(src.join("b")).unwrap();
        let files = [
            (
                "lib.rs",
                "mod a; pub mod b; mod c; pub use c::Gone;\n#[cfg(test)] mod tests;",
            ),
            ("a.rs", "use crate::b::inner::X;\nuse crate::Gone;"),
            (
                "b/mod.rs",
                "mod inner;\n#[cfg(test)] mod tests { use crate::a::Y; }",
            ),
            ("b/inner.rs", "pub struct X;\nuse super::super::c;"),
            ("c.rs", ""),
            ("tests.rs", "use crate::a;"),
        ];
        for (name, text) in files {
            std::fs::write(src.join(name), text).unwrap();
        }
        let whole = graph(&src).unwrap();
        assert_eq!(whole.to_string(), "  a -> b, c\n  b -> c\n  c\n");
        assert!(whole.cycles().is_empty());
        std::fs::write(src.join("c.rs"), "fn f() { crate::a::g() }").unwrap();
        let cycles = graph(&src).unwrap().cycles();
        assert_eq!(cycles.len(), 1, "{cycles:?}");
        assert!(
            cycles[0].contains("c -> a (") && cycles[0].contains("c.rs:1"),
            "{cycles:?}"
        );
        std::fs::remove_dir_all(&src).unwrap();
    }
}
