//! What `make check` asks of the sources besides formatting and lints.
//!
//! ```text
//! cargo run -p tree-check -- modules      prints which module uses which; a cycle is an error
//! cargo run -p tree-check -- types        more than two types of a crate with one name are an error
//! cargo run -p tree-check -- citations    every section and requirement that is cited is in gcs/PROTOCOL.md
//! ```

mod citations;
mod crates;
mod graph;
mod lex;
mod modules;
mod source;
mod types;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What is wrong, one line each.
type Findings = Vec<String>;

fn main() -> ExitCode {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let findings = match std::env::args().nth(1).as_deref() {
        Some("modules") => modules(&top),
        Some("types") => types(&top),
        Some("citations") => citations::check(&top),
        _ => Err("usage: tree-check modules|types|citations".into()),
    };
    let findings = findings.unwrap_or_else(|error| vec![error]);
    for finding in &findings {
        eprintln!("error: {finding}");
    }
    ExitCode::from(u8::from(!findings.is_empty()))
}

fn modules(top: &Path) -> Result<Findings, String> {
    let crates = crates::of_workspace(top)?;
    println!("crates");
    print!("{}", crates::graph(&crates));
    let mut findings = Vec::new();
    for one in &crates {
        let graph = modules::graph(&one.dir.join("src"))?;
        if !graph.is_empty() {
            println!("\n{}", one.name);
            print!("{graph}");
        }
        findings.extend(graph.cycles().iter().map(|cycle| {
            let name = &one.name;
            format!("the modules of {name} form a cycle:\n    {cycle}")
        }));
    }
    Ok(findings)
}

fn types(top: &Path) -> Result<Findings, String> {
    let mut findings = Vec::new();
    for one in crates::of_workspace(top)? {
        let repeated = types::repeated(&one.dir.join("src"))?;
        findings.extend(repeated.iter().map(|what| format!("{}: {what}", one.name)));
    }
    Ok(findings)
}

/// The text of a file, or an error that names it.
fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// What is in a directory, by name.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |e: std::io::Error| format!("cannot list {}: {e}", dir.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}
