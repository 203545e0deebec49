//! The command `probe`.

use std::io::Write;

use serde_json::Value;

use super::tree::{Directory, Machine, Record, Recorder, Tree};
use super::verdict::{Finding, Level};
use super::{report, Report};

const USAGE: &str = "\
use: probe [--json | --record] [--root DIR | --from FILE]
Says what this machine has for a guest of a Windows host, what is missing, and what to do.
  --json       the report for tools
  --record     everything the report is made from, to be sent to somebody who can read it
  --root DIR   read DIR/sys, DIR/proc ... instead of this machine
  --from FILE  read what --record wrote
ends with 0, or with 1 when something is missing that a guest cannot do without
";

/// Something is missing that a guest cannot do without.
const MISSING: i32 = 1;
/// A wrong command line, or a file that is no record.
const BAD_USAGE: i32 = 2;

enum Form {
    Text,
    Json,
    Record,
}

/// Runs the command; gives its exit code.
pub fn run(args: &[String], out: &mut impl Write, complaints: &mut impl Write) -> i32 {
    match probe(args) {
        Ok((text, code)) => match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => code,
            // The reader has gone; there is no one to tell.
            Err(_) => BAD_USAGE,
        },
        Err(text) => {
            complaints
                .write_all(format!("probe: {text}\n").as_bytes())
                .ok();
            BAD_USAGE
        }
    }
}

fn probe(args: &[String]) -> Result<(String, i32), String> {
    let mut form = Form::Text;
    let mut tree: Box<dyn Tree> = Box::new(Machine::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value\n{USAGE}"));
        match arg.as_str() {
            "--json" => form = Form::Json,
            "--record" => form = Form::Record,
            "--root" => tree = Box::new(Directory(value()?.into())),
            "--from" => tree = Box::new(load(value()?)?),
            "--help" | "-h" => return Ok((USAGE.into(), 0)),
            other => return Err(format!("there is no option {other:?}\n{USAGE}")),
        }
    }
    Ok(match form {
        Form::Record => (record(tree.as_ref())?, 0),
        Form::Json | Form::Text => {
            let report = report(tree.as_ref());
            let text = match form {
                Form::Json => format!("{:#}\n", report.document()),
                _ => report.text(),
            };
            (text, code(&report))
        }
    })
}

fn code(report: &Report) -> i32 {
    let missing = |finding: &Finding| finding.level == Level::Missing;
    match report.verdict.iter().any(missing) {
        true => MISSING,
        false => 0,
    }
}

fn load(path: &str) -> Result<Record, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("reading {path}: {error}"))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| format!("{path} is not what probe --record writes: {error}"))
}

/// Everything that a report reads of a tree, as a document.
fn record(tree: &dyn Tree) -> Result<String, String> {
    let recorder = Recorder::new(tree);
    // For what it reads.
    report(&recorder);
    let document: Result<Value, _> = serde_json::to_value(recorder.into_record());
    document
        .map(|document| format!("{document:#}\n"))
        .map_err(|error| error.to_string())
}
