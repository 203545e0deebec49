//! Requests that no host sends: every member of every message, and of the documents inside, with
//! values it cannot have. Made from one good request for each message (and each resource),
//! so that a new member needs one word in [`super::requests`]. None of them does anything, whoever
//! gets them.

use std::fmt::Display;

use serde_json::{json, Map, Value};

use super::requests::{bases, Base};

pub const OK: u32 = 0;
pub const NOT_IMPLEMENTED: u32 = 0x8000_4001;
pub const FAIL: u32 = 0x8000_4005;
pub const INVALID_JSON: u32 = 0xc037_010d;
pub const NOT_FOUND: u32 = 0xc037_010e;

/// Members whose text is a document.
const INNER: [&str; 3] = ["ContainerConfig", "ProcessParameters", "Query"];
/// Numbers that may be negative.
const SIGNED: [&str; 3] = ["Signal", "Port", "limit"];

/// What must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Code(u32),
    /// The code of the case before.
    LikePrevious,
    /// Whatever is right: there must be an answer, and the guest goes on.
    Any,
}

const REFUSED: Expect = Expect::Code(INVALID_JSON);

pub struct Case {
    pub name: String,
    pub message: u32,
    pub payload: Vec<u8>,
    pub expect: Expect,
}

/// A value that serde_json cannot hold, as it is to stand in the text.
fn raw(text: &str) -> Value {
    format!("@RAW:{text}@").into()
}

/// The text of a document, its inner documents as text within.
fn encode(document: &Value) -> String {
    let mut document = document.clone();
    nest(&mut document);
    unraw(&document)
}

fn nest(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                nest(member);
                let inner = INNER.iter().any(|i| i.eq_ignore_ascii_case(name));
                if inner && member.is_object() && member.get("@AS-IS").is_none() {
                    *member = unraw(member).into();
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(nest),
        _ => {}
    }
}

fn unraw(value: &Value) -> String {
    let text = value.to_string();
    let mut parts = text.split("\"@RAW:");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (raw, rest) = part.split_once("@\"").expect("made by `raw`");
        out += raw;
        out += rest;
    }
    out
}

/// Every place of a document, from the outside in: pointer, innermost member name, value.
fn places(value: &Value, at: &str, name: &str, found: &mut Vec<(String, String, Value)>) {
    if !at.is_empty() {
        found.push((at.to_owned(), name.to_owned(), value.clone()));
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                places(member, &format!("{at}/{name}"), name, found);
            }
        }
        Value::Array(elements) => {
            for (i, element) in elements.iter().enumerate() {
                places(element, &format!("{at}/{i}"), name, found);
            }
        }
        _ => {}
    }
}

fn with(document: &Value, at: &str, value: Value) -> Value {
    let mut changed = document.clone();
    *changed.pointer_mut(at).expect("a place of it") = value;
    changed
}

fn without(document: &Value, at: &str) -> Option<Value> {
    let mut changed = document.clone();
    let (parent, name) = at.rsplit_once('/')?;
    changed.pointer_mut(parent)?.as_object_mut()?.remove(name);
    Some(changed)
}

/// Values of another type, or of none.
fn misfits(value: &Value, name: &str) -> Vec<Value> {
    // An object in place of an inner document must not become one.
    let object = json!({"@AS-IS": 1});
    let mut wrong = match value {
        _ if INNER.contains(&name) => vec![json!(1), json!([]), object, json!("{"), json!("[]")],
        Value::String(_) => vec![json!(1), json!(true), json!([]), object],
        Value::Bool(_) => vec![json!("true"), json!(1), json!([]), object],
        Value::Number(_) => vec![json!("1"), json!(true), json!([]), object, json!(1.5)],
        Value::Array(_) => vec![json!("x"), json!(1), object],
        Value::Object(_) => vec![json!("x"), json!(1), json!([])],
        Value::Null => Vec::new(),
    };
    if value.is_number() {
        let huge = "1".repeat(400);
        wrong.extend(["1e3", "1e999", "18446744073709551616", &huge].map(raw));
        if !SIGNED.contains(&name) {
            wrong.push(json!(-1));
        }
    }
    wrong
}

/// Texts that are well-formed and mean no good.
fn texts() -> [Value; 9] {
    [
        json!(""),
        json!("a\0b"),
        json!("../../../etc"),
        json!("/a/../b//c/."),
        json!("x".repeat(100_000)),
        json!("\u{fffd}\u{1f4a9}\u{202e}"),
        json!("%s%n\r\n\u{1b}[2J"),
        raw(r#""\ud800x""#),
        json!("-1"),
    ]
}

fn rename(value: &Value, change: fn(&str) -> String) -> Value {
    match value {
        Value::Object(members) => {
            let renamed = members.iter().map(|(n, v)| (change(n), rename(v, change)));
            Value::Object(renamed.collect::<Map<_, _>>())
        }
        Value::Array(elements) => elements.iter().map(|v| rename(v, change)).collect(),
        other => other.clone(),
    }
}

/// Adds a member that nobody knows to every object.
fn crowd(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().map(|(n, v)| (n.clone(), crowd(v)));
            let mut crowded: Map<_, _> = kept.collect();
            // Where names are free, it must be of the right type.
            crowded.insert("NobodyKnowsIt".into(), "x".into());
            Value::Object(crowded)
        }
        Value::Array(elements) => elements.iter().map(crowd).collect(),
        other => other.clone(),
    }
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for base in &bases() {
        let mut spoiled = Spoiled { base, cases };
        spoiled.add("as it is", encode(&base.document), spoiled.same());
        spoiled.member_by_member();
        spoiled.as_a_whole();
        spoiled.not_a_document();
        cases = spoiled.cases;
    }
    cases
}

/// What one good request becomes.
struct Spoiled<'a> {
    base: &'a Base,
    cases: Vec<Case>,
}

impl Spoiled<'_> {
    fn same(&self) -> Expect {
        Expect::Code(self.base.code)
    }

    fn add(&mut self, what: impl Display, payload: impl Into<Vec<u8>>, expect: Expect) {
        // What does not listen has one answer.
        let expect = if self.base.deaf { self.same() } else { expect };
        self.cases.push(Case {
            name: format!("{}: {what}", self.base.name),
            message: self.base.message,
            payload: payload.into(),
            expect,
        });
    }

    fn member_by_member(&mut self) {
        let document = &self.base.document;
        let mut found = Vec::new();
        places(document, "", "", &mut found);
        for (at, name, value) in &found {
            for wrong in misfits(value, name) {
                let short = wrong.to_string().chars().take(40).collect::<String>();
                let payload = encode(&with(document, at, wrong));
                self.add(format!("{at} = {short}"), payload, REFUSED);
            }
            if let Some(less) = without(document, at) {
                self.add(format!("without {at}"), encode(&less), Expect::Any);
                let null = encode(&with(document, at, Value::Null));
                self.add(format!("{at} = null"), null, Expect::LikePrevious);
            }
            // A host takes no other ActivityId back.
            if value.is_string() && name != "ActivityId" {
                self.texts_at(at);
            }
        }
    }

    fn texts_at(&mut self, at: &str) {
        let document = &self.base.document;
        for (i, text) in texts().into_iter().enumerate() {
            let payload = encode(&with(document, at, text));
            self.add(format!("{at} = text {i}"), payload, Expect::Any);
        }
        let mut payload = encode(&with(document, at, "@BYTES@".into())).into_bytes();
        let at_mark = payload.windows(7).position(|w| w == b"@BYTES@");
        let from = at_mark.expect("the mark is there");
        payload.splice(from..from + 7, *b"\xff\xc0\x80\xed\xa0\x80\xf5");
        self.add(format!("{at} is not UTF-8"), payload, Expect::Any);
    }

    fn as_a_whole(&mut self) {
        let (document, same) = (&self.base.document, self.same());
        let good = encode(document);
        // Names of a document's own keys change as well; of the messages they mean the same.
        let upper = encode(&rename(document, str::to_uppercase));
        self.add("names in capitals", upper, Expect::Any);
        self.add("members nobody knows", encode(&crowd(document)), same);
        let inside = |value: &str| format!("{{\"X\":{value},{}", &good[1..]);
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        self.add("9000 levels", inside(&nested(9000)), same);
        self.add("20000 levels", inside(&nested(20_000)), REFUSED);
        let text = format!("\"{}\"", "x".repeat(1 << 20));
        self.add("a member of 1 MiB", inside(&text), same);
        self.add("a number of 1 MiB", inside(&"1".repeat(1 << 20)), same);
        let blanks = format!("{good}{}", " ".repeat(1 << 20));
        self.add("1 MiB of blanks", blanks, same);
        for cut in [1, good.len() / 2, good.len() - 1] {
            self.add(format!("cut at {cut}"), &good.as_bytes()[..cut], REFUSED);
        }
    }

    fn not_a_document(&mut self) {
        for (what, payload) in [
            ("nothing", &b""[..]),
            ("a NUL after it", b"{}\0"),
            ("two documents", b"{}{}"),
            ("a byte order mark", b"\xef\xbb\xbf{}"),
            ("a list", b"[]"),
            ("a number", b"1"),
            ("a text", b"\"{}\""),
            ("no quotes", b"{ContainerId:1}"),
            ("a comma too many", b"{\"a\":1,}"),
            ("bytes", b"\xff\xfe\x00\x01"),
        ] {
            self.add(what, payload, REFUSED);
        }
        let open = vec![b'['; 1 << 20];
        self.add("a million levels, open", open, REFUSED);
        self.add("null", *b"null", Expect::Any);
        self.add("{}", *b"{}", Expect::LikePrevious);
    }
}
