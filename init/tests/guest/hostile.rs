//! Requests that no host sends: every member of every message, and of the documents inside, with
//! values it cannot have. Made from one good request a message (and a resource), so that a new
//! member needs one word here. None of them does anything, whoever gets them.

use serde_json::{json, Map, Value};

pub const OK: u32 = 0;
pub const NOT_IMPLEMENTED: u32 = 0x8000_4001;
pub const FAIL: u32 = 0x8000_4005;
pub const INVALID_JSON: u32 = 0xc037_010d;
pub const NOT_FOUND: u32 = 0xc037_010e;

/// Members whose text is a document.
const INNER: [&str; 3] = ["ContainerConfig", "ProcessParameters", "Query"];
/// Numbers that may be negative.
const SIGNED: [&str; 3] = ["Signal", "Port", "limit"];
/// No container has this id.
const NOBODY: &str = "hostile";
const ACTIVITY: &str = "00000000-0000-0000-0000-000000000000";

/// What must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Code(u32),
    /// The code of the case before.
    LikePrevious,
    /// Whatever is right: there must be an answer, and the guest goes on.
    Any,
}

pub struct Case {
    pub name: String,
    pub message: u32,
    pub payload: Vec<u8>,
    pub expect: Expect,
}

/// A good request, or as good as one can be that does nothing.
struct Base {
    name: &'static str,
    message: u32,
    document: Value,
    code: u32,
    /// The answer does not depend on the body.
    deaf: bool,
}

fn base(name: &'static str, message: u32, code: u32, mut document: Value) -> Base {
    document["ContainerId"] = NOBODY.into();
    document["ActivityId"] = ACTIVITY.into();
    Base {
        name,
        message,
        document,
        code,
        deaf: false,
    }
}

fn process() -> Value {
    json!({
        "terminal": false, "args": ["a"], "env": ["A=b"], "cwd": "/", "noNewPrivileges": true,
        "user": {"uid": 0, "gid": 0, "username": "u", "additionalGids": [1]},
        "capabilities": {"bounding": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}]})
}

fn bases() -> Vec<Base> {
    // Without a root it is refused before anything is made.
    let spec = json!({
        "ociVersion": "1.1.0", "hostname": "h", "process": process(), "annotations": {"a": "b"},
        "mounts": [{"destination": "/d", "type": "bind", "source": "/s", "options": ["ro"]}],
        "linux": {"namespaces": [{"type": "pid", "path": ""}], "cgroupsPath": "/x",
            "maskedPaths": ["/m"], "resources": {"memory": {"limit": 1}}}});
    let create = json!({
        "SupportedVersions": {"MinimumVersion": "10.0.0", "MaximumVersion": "10.0.0",
            "MinimumProtocolVersion": 3, "MaximumProtocolVersion": 4},
        "ContainerConfig": {"SchemaVersion": {"Major": 2, "Minor": 1},
            "OciBundlePath": "/run/hostile", "OciSpecification": spec, "ScratchDirPath": ""}});
    let execute = json!({"Settings": {
        "VsockStdioRelaySettings": {"StdIn": 1, "StdOut": 2, "StdErr": 3},
        "ProcessParameters": {"CommandLine": "a", "CommandArgs": ["a"], "WorkingDirectory": "/",
            "Environment": {"A": "b"}, "EmulateConsole": false, "CreateStdInPipe": false,
            "CreateStdOutPipe": false, "CreateStdErrPipe": false, "CreateInUtilityVM": false,
            "OciProcess": process()}}});
    let mut bases = vec![
        base(
            "Negotiate",
            0x1010_0b01,
            NOT_IMPLEMENTED,
            json!({"MinimumVersion": 4, "MaximumVersion": 4}),
        ),
        base("DumpStacks", 0x1010_0c01, OK, json!({})),
        base("Create", 0x1010_0101, FAIL, create),
        base("Start", 0x1010_0201, OK, json!({})),
        base("ShutdownGraceful", 0x1010_0301, NOT_FOUND, json!({})),
        base("ShutdownForced", 0x1010_0401, NOT_FOUND, json!({})),
        base("Execute", 0x1010_0501, NOT_FOUND, execute),
        base(
            "Wait",
            0x1010_0601,
            NOT_FOUND,
            json!({"ProcessId": 1, "TimeoutInMs": 0}),
        ),
        base(
            "Signal",
            0x1010_0701,
            NOT_FOUND,
            json!({"ProcessId": 1, "Options": {"Signal": 15}}),
        ),
        base(
            "Resize",
            0x1010_0801,
            NOT_FOUND,
            json!({"ProcessId": 1, "Height": 1, "Width": 1}),
        ),
        base(
            "GetProperties",
            0x1010_0901,
            NOT_FOUND,
            json!({"Query": {"PropertyTypes": ["ProcessList"]}}),
        ),
        base("Delete", 0x1010_0d01, NOT_FOUND, json!({})),
    ];
    bases[0].deaf = true;
    bases[1].deaf = true;
    for (resource, settings) in resources() {
        let request = json!({"ResourceType": resource, "RequestType": "Add", "Settings": settings});
        bases.push(base(
            resource,
            0x1010_0a01,
            NOT_FOUND,
            json!({"Request": request}),
        ));
    }
    bases
}

fn resources() -> [(&'static str, Value); 10] {
    [
        (
            "MappedVirtualDisk",
            json!({"MountPath": "/m", "Lun": 1, "Controller": 1, "Partition": 1,
            "ReadOnly": true, "Encrypted": false, "Options": ["ro"], "EnsureFilesystem": false,
            "Filesystem": "ext4"}),
        ),
        ("SCSIDevice", json!({"Controller": 1, "Lun": 1})),
        (
            "MappedDirectory",
            json!({"MountPath": "/m", "Port": 1, "ShareName": "s", "ReadOnly": true}),
        ),
        (
            "VPMemDevice",
            json!({"DeviceNumber": 1, "MountPath": "/m",
            "MappingInfo": {"DeviceOffsetInBytes": 1, "DeviceSizeInBytes": 1}}),
        ),
        (
            "CombinedLayers",
            json!({"ContainerID": "c", "ContainerRootPath": "/r",
            "Layers": [{"Path": "/l"}], "ScratchPath": "/s"}),
        ),
        (
            "Network",
            json!({"NamespaceID": "n", "ID": "i", "MacAddress": "m", "IPAddress": "1.2.3.4",
            "PrefixLength": 24, "GatewayAddress": "1.2.3.1", "IPv6Address": "", "IPv6PrefixLength": 1,
            "IPv6GatewayAddress": "", "DNSSuffix": "", "DNSServerList": "", "EnableLowMetric": false,
            "EncapOverhead": 1, "VPCIAssigned": false}),
        ),
        ("VPCIDevice", json!({"VMBusGUID": "g"})),
        (
            "ContainerConstraints",
            json!({"Linux": {"memory": {"limit": 1}}}),
        ),
        (
            "SecurityPolicy",
            json!({"EnforcerType": "", "EncodedSecurityPolicy": "", "EncodedUVMReference": ""}),
        ),
        ("SecurityPolicyFragment", json!({"Fragment": "f"})),
    ]
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

/// All of it.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for base in bases() {
        of(&base, &mut cases);
    }
    cases
}

fn of(base: &Base, cases: &mut Vec<Case>) {
    let message = base.message;
    let same = Expect::Code(base.code);
    let refused = Expect::Code(if base.deaf { base.code } else { INVALID_JSON });
    let deaf = base.deaf;
    let mut add = |what: String, payload: Vec<u8>, expect| {
        // What does not listen has one answer.
        let expect = if deaf { same } else { expect };
        let name = format!("{}: {what}", base.name);
        cases.push(Case {
            name,
            message,
            payload,
            expect,
        });
    };
    let good = encode(&base.document);
    add("as it is".into(), good.clone().into(), same);

    let mut found = Vec::new();
    places(&base.document, "", "", &mut found);
    for (at, name, value) in &found {
        for wrong in misfits(value, name) {
            let short = wrong.to_string().chars().take(40).collect::<String>();
            let payload = encode(&with(&base.document, at, wrong)).into();
            add(format!("{at} = {short}"), payload, refused);
        }
        if let Some(less) = without(&base.document, at) {
            add(format!("without {at}"), encode(&less).into(), Expect::Any);
            let null = encode(&with(&base.document, at, Value::Null));
            add(format!("{at} = null"), null.into(), Expect::LikePrevious);
        }
        // A host takes no other ActivityId back.
        if value.is_string() && name != "ActivityId" {
            for (i, text) in texts().into_iter().enumerate() {
                let payload = encode(&with(&base.document, at, text));
                add(format!("{at} = text {i}"), payload.into(), Expect::Any);
            }
            let mark = with(&base.document, at, "@BYTES@".into());
            let payload = encode(&mark).into_bytes();
            let at_mark = payload.windows(7).position(|w| w == b"@BYTES@");
            let from = at_mark.expect("the mark is there");
            let mut payload = payload;
            payload.splice(from..from + 7, *b"\xff\xc0\x80\xed\xa0\x80\xf5");
            add(format!("{at} is not UTF-8"), payload, Expect::Any);
        }
    }

    let upper = rename(&base.document, str::to_uppercase);
    // Names of a document's own keys change as well; of the messages they mean the same.
    add(
        "names in capitals".into(),
        encode(&upper).into(),
        Expect::Any,
    );
    add(
        "members nobody knows".into(),
        encode(&crowd(&base.document)).into(),
        same,
    );
    let inside = |value: &str| format!("{{\"X\":{value},{}", &good[1..]).into_bytes();
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    add("9000 levels".into(), inside(&nested(9000)), same);
    add("20000 levels".into(), inside(&nested(20_000)), refused);
    add(
        "a million levels, open".into(),
        vec![b'['; 1 << 20],
        refused,
    );
    add(
        "a member of 1 MiB".into(),
        inside(&format!("\"{}\"", "x".repeat(1 << 20))),
        same,
    );
    add(
        "a number of 1 MiB".into(),
        inside(&"1".repeat(1 << 20)),
        same,
    );
    add(
        "1 MiB of blanks".into(),
        [good.clone().into(), vec![b' '; 1 << 20]].concat(),
        same,
    );
    for (what, payload) in [
        ("nothing", &b""[..]),
        ("a NUL behind it", b"{}\0"),
        ("two documents", b"{}{}"),
        ("a byte order mark", b"\xef\xbb\xbf{}"),
        ("a list", b"[]"),
        ("a number", b"1"),
        ("a text", b"\"{}\""),
        ("no quotes", b"{ContainerId:1}"),
        ("a comma too many", b"{\"a\":1,}"),
        ("bytes", b"\xff\xfe\x00\x01"),
    ] {
        add(what.into(), payload.to_vec(), refused);
    }
    for cut in [1, good.len() / 2, good.len() - 1] {
        add(
            format!("cut at {cut}"),
            good.as_bytes()[..cut].to_vec(),
            refused,
        );
    }
    add("null".into(), b"null".to_vec(), Expect::Any);
    add("{}".into(), b"{}".to_vec(), Expect::LikePrevious);
}
