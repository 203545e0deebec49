//! The pages of this repository: what they show is true, and their links lead somewhere.
//!
//! A fenced block `console` holds commands, each on a line that begins with `$ `, and below each
//! what it prints. The test runs them in a directory of its own and compares. A number stands for
//! any number, a line `...` for any lines, and `...` in a line for any text.
//!
//! A word after `console` says why the block is not run; [`NOT_RUN`] lists the words. Commands in
//! such a block are still [checked](check), and each block is counted as `SKIPPED`.

#[path = "../common/built.rs"]
mod built;
mod check;
mod page;
mod shell;

use std::path::{Path, PathBuf};

use page::{Block, Page};

/// Why a block is not run.
const NOT_RUN: [(&str, &str); 3] = [
    ("slow", "it takes minutes, or builds anew"),
    ("interactive", "it does not end by itself"),
    ("elsewhere", "it needs another directory or machine"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// The pages that people read first hold commands; a parser that finds none is broken.
#[test]
fn the_manuals_have_commands() {
    for name in [
        "README.md",
        "qemu/README.md",
        "gcs/README.md",
        "kernel-config/README.md",
    ] {
        let page = Page::read(&root(), name.as_ref());
        assert!(
            page.blocks.iter().any(|b| b.language == "console"),
            "{name}"
        );
    }
}

/// A block that the rules below do not see would never be tried.
#[test]
fn commands_are_console_blocks_with_a_known_reason_not_to_run() {
    for page in Page::all(&root()) {
        for block in &page.blocks {
            let at = page.at(block);
            assert!(
                !["sh", "bash", "shell"].contains(&&*block.language),
                "{at}: use console"
            );
            if block.language != "console" {
                continue;
            }
            assert!(
                !block.commands().is_empty(),
                "{at}: no line begins with `$ `"
            );
            if let Some(word) = &block.word {
                let known = NOT_RUN.iter().any(|(known, _)| known == word);
                assert!(known, "{at}: {word:?} is not in NOT_RUN");
            }
        }
    }
}

/// Targets, options, tests and tools that the pages name are there, whether they run or not.
#[test]
fn what_commands_name_is_there() {
    let root = root();
    let mut wrong = Vec::new();
    for page in Page::all(&root) {
        for (block, command) in page.commands() {
            if let Err(error) = check::command(&root, &command.line, block.word.as_deref()) {
                wrong.push(format!("{}: {}: {error}", page.at(block), command.line));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_lead_somewhere() {
    let root = root();
    let wrong: Vec<_> = Page::all(&root)
        .iter()
        .flat_map(|page| page.broken_links(&root))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A blank line inside a table makes text of the rows below it.
#[test]
fn tables_are_whole() {
    let wrong: Vec<_> = Page::all(&root())
        .iter()
        .flat_map(Page::broken_tables)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs the blocks of each page in order, in one directory for a page. One test for all pages: each
/// command boots a VM, and the machine has few processors.
#[test]
fn pages_do_what_they_show() {
    let root = root();
    let mut wrong = Vec::new();
    for page in Page::all(&root) {
        let console = page
            .blocks
            .iter()
            .filter(|block| block.language == "console");
        let (skipped, to_run): (Vec<&Block>, Vec<&Block>) =
            console.partition(|block| block.word.is_some());
        for block in skipped {
            let reason = NOT_RUN
                .iter()
                .find(|(word, _)| Some(*word) == block.word.as_deref());
            let reason = reason.map_or("", |(_, reason)| reason);
            eprintln!("SKIPPED: commands of {}: {reason}", page.at(block));
        }
        if to_run.is_empty() || !built() {
            continue;
        }
        let dir = shell::directory(&root);
        for block in to_run {
            if let Err(error) = shell::run(dir.path(), &root, &block.commands()) {
                wrong.push(format!("{}: {error}", page.at(block)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn built() -> bool {
    let images = ["initrd.img", "initrd-debug.img"];
    built::kernel().is_some() && images.iter().all(|image| built::built("", image).is_some())
}
