//! The report for people: the same document as for tools, aligned. Made from the document, so
//! that neither can have what the other lacks.

use serde_json::Value;

const WIDTH: usize = 96;
const STEP: usize = 2;

/// Sections in the order of the document; the verdict is the last one.
pub fn render(document: &Value) -> String {
    let mut out = String::new();
    for (name, value) in document.as_object().into_iter().flatten() {
        match (name.as_str(), value) {
            ("verdict", Value::Array(findings)) => verdict(&mut out, findings),
            (name, value) => member(&mut out, 0, name, value, name.len()),
        }
    }
    out
}

fn line(out: &mut String, indent: usize, text: &str) {
    out.push_str(" ".repeat(indent).as_str());
    out.push_str(text.trim_end());
    out.push('\n');
}

/// A word for a value that fits into a line, or `None`.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("-".into()),
        Value::Bool(true) => Some("yes".into()),
        Value::Bool(false) => Some("no".into()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.replace('\n', " ")),
        Value::Array(list) if list.is_empty() => Some("none".into()),
        Value::Array(list) => {
            let words: Option<Vec<String>> = list
                .iter()
                .map(|value| value.as_str().map(str::to_owned))
                .collect();
            Some(words?.join(", "))
        }
        Value::Object(_) => None,
    }
}

/// `column`: where the values of this and its neighbours begin, counted from the indent.
fn member(out: &mut String, indent: usize, name: &str, value: &Value, column: usize) {
    let label = name.replace('_', " ");
    if let Some(word) = word(value) {
        let left = format!("{label:<column$}  ");
        return wrapped(out, indent, &left, &word);
    }
    line(out, indent, &label);
    match value {
        Value::Object(members) => {
            let column = members.keys().map(String::len).max().unwrap_or(0);
            for (name, value) in members {
                member(out, indent + STEP, name, value, column);
            }
        }
        Value::Array(rows) => table(out, indent + STEP, rows),
        _ => {}
    }
}

/// Breaks between words; what follows the first line is indented under its value.
fn wrapped(out: &mut String, indent: usize, left: &str, text: &str) {
    let mut current = left.to_owned();
    let hang = " ".repeat(left.len());
    for word in text.split_whitespace() {
        if indent + current.len() + word.len() > WIDTH && current.len() > left.len() {
            line(out, indent, &current);
            current.clone_from(&hang);
        }
        current.push_str(word);
        current.push(' ');
    }
    line(out, indent, &current);
}

/// Rows with the same members.
fn table(out: &mut String, indent: usize, rows: &[Value]) {
    let Some(names) = rows.first().and_then(Value::as_object) else {
        return;
    };
    let mut cells: Vec<Vec<String>> = vec![names.keys().map(|n| n.replace('_', " ")).collect()];
    for row in rows {
        let value = |name: &String| word(&row[name.as_str()]).unwrap_or_default();
        cells.push(names.keys().map(value).collect());
    }
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..names.len()).filter_map(width).collect();
    for row in &cells {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        line(out, indent, &text);
    }
}

fn verdict(out: &mut String, findings: &[Value]) {
    line(out, 0, "verdict");
    if findings.is_empty() {
        line(out, STEP, "nothing is missing");
    }
    for finding in findings {
        let part = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let left = format!("{:<8} ", part("level").to_uppercase());
        wrapped(out, STEP, &left, &part("what"));
        wrapped(out, STEP, "         breaks: ", &part("breaks"));
        wrapped(out, STEP, "         do:     ", &part("remedy"));
    }
}
