//! `generichook`: an OCI hook that runs another program and fills the container's id, pid and
//! annotations into its arguments (protocol 5.13). The vendor's tool sets up a GPU for a container
//! this way.
//!
//! ```text
//! engine ── state (JSON) on stdin ──▶ generichook PROGRAM ARG... ──▶ PROGRAM, {{pid}} filled in
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "a process of its own, which waits for its child"
)]

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The largest state that is read. A state is small, except that the host chooses its annotations.
const STATE_MAX: u64 = 16 << 20;
/// The most bytes that an error quotes of the program's output, and of its log.
const QUOTE: usize = 4096;
/// Names a file that the program writes its own log to.
const LOG_FILE: &str = "GENERIC_HOOK_LOG_DEBUG_FILE";

/// Runs the program that `args` name, with the container's state that it reads from `stdin`.
///
/// # Errors
/// There is no state, a placeholder cannot be filled in, or the program fails; with its output.
pub fn run(
    args: &[String],
    environment: impl Iterator<Item = (String, String)>,
    stdin: impl Read,
) -> Result<(), String> {
    let mut text = Vec::new();
    stdin
        .take(STATE_MAX)
        .read_to_end(&mut text)
        .map_err(|e| format!("read the state of the container: {e}"))?;
    let state: Value = serde_json::from_slice(&text)
        .map_err(|e| format!("decode the state of the container: {e}"))?;
    let args = args
        .iter()
        .map(|arg| fill(arg, &state))
        .collect::<Result<Vec<_>, _>>()?;
    let [program, arguments @ ..] = args.as_slice() else {
        return Err("no program to run".into());
    };
    let environment = environment
        .map(|(name, value)| Ok((name, fill(&value, &state)?)))
        .collect::<Result<Vec<_>, String>>()?;
    let log = environment.iter().find(|(name, _)| name == LOG_FILE);
    let log = log.map(|(_, path)| path.clone());
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("run {program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let log = log.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let said = [&output.stdout, &output.stderr, &log].map(|bytes| tail(bytes));
    Err(format!("{program}: {}: {}", output.status, said.join("")))
}

fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(QUOTE);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

/// Puts the state's values in the places of `{{id}}`, `{{pid}}` and `{{annotation "name"}}`.
fn fill(text: &str, state: &Value) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, remainder) = after
            .split_once("}}")
            .ok_or_else(|| format!("{text:?} has no \"}}}}\""))?;
        filled.push_str(before);
        filled.push_str(&value_of(inside.trim(), state)?);
        rest = remainder;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn value_of(name: &str, state: &Value) -> Result<String, String> {
    let missing = || format!("the state of the container has no {name}");
    let quoted = name
        .strip_prefix("annotation")
        .and_then(|rest| rest.trim().strip_prefix('"')?.strip_suffix('"'));
    let value = match (name, quoted) {
        ("id" | "pid", _) => &state[name],
        (_, Some(annotation)) => &state["annotations"][annotation],
        _ => {
            return Err(format!(
                "{name:?} is none of id, pid and annotation \"name\""
            ))
        }
    };
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = r#"{"id": "c1", "pid": 42, "annotations": {"a.b": "x y"}}"#;

    fn run_with(args: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        run(&args, environment, STATE.as_bytes())
    }

    #[test]
    fn arguments_and_environment_are_filled_in() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = "echo \"$0 $1 $VALUE\" > $OUT";
        let args = [
            "/bin/sh",
            "-c",
            script,
            "--pid={{pid}}",
            "{{ id }}-{{annotation \"a.b\"}}",
        ];
        let environment = [
            ("OUT", out.to_str().unwrap()),
            ("VALUE", "{{id}}"),
            ("PATH", "/bin:/usr/bin"),
        ];
        run_with(&args, &environment).unwrap();
        assert_eq!(fs::read_to_string(out).unwrap(), "--pid=42 c1-x y c1\n");
    }

    #[test]
    fn a_failure_says_what_the_program_and_its_log_said() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "in the log").unwrap();
        let args = ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"];
        let why = run_with(&args, &[(LOG_FILE, log.to_str().unwrap())]).unwrap_err();
        for part in ["out\n", "err\n", "in the log", "3"] {
            assert!(why.contains(part), "{why}");
        }
        for (args, part) in [
            (&["/no/such/program"][..], "/no/such/program"),
            (&[], "no program"),
            (&["/bin/true", "{{name}}"], "name"),
            (&["/bin/true", "{{annotation \"c\"}}"], "annotation"),
            (&["/bin/true", "{{pid"], "}}"),
        ] {
            let why = run_with(args, &[]).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        assert!(run(&[], std::iter::empty(), &b"{"[..]).is_err());
    }
}
