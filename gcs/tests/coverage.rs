//! Every type, member, constant and function of the protocol package has its counterpart.
//!
//! `testdata/prot_names.json` lists what the package documents. The tables below say what
//! stands for it here; `src/prot/COVERAGE.md` and a table in `README.md` show them to people. Write
//! both anew with `UPDATE_COVERAGE=1 cargo test -p gcs --test coverage`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gcs::prot::header::{MessageHeader, SequenceId, MESSAGE_HEADER_SIZE};
use gcs::prot::json::{self, Decode};
use gcs::prot::*;
use serde::Deserialize;
use serde_json::{json, Value};

#[derive(Deserialize)]
struct Names {
    constants: BTreeMap<String, Value>,
    types: Vec<String>,
    functions: Vec<String>,
    members: BTreeMap<String, Vec<String>>,
}

fn names() -> Names {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/prot_names.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Whether the type reads a member of this name.
type Reads = fn(&str) -> bool;

fn reads<T: Decode + Default>(member: &str) -> bool {
    // An unknown member is skipped whatever it is; a known one minds at least one of these.
    let values = ["{}", "[]", "1", "true", "\"x\""];
    values.iter().any(|value| {
        let payload = format!("{{\"{member}\":{value}}}");
        let (_, error) = json::read::<T>(payload.as_bytes()).unwrap();
        error.is_some_and(|error| error.member == member)
    })
}

macro_rules! messages {
    ($($name:literal = $type:ty;)*) => {
        vec![$(($name, std::any::type_name::<$type>(), Some(reads::<$type> as Reads))),*]
    };
}

macro_rules! plain {
    ($($name:literal = $type:ty;)*) => {
        vec![$(($name, std::any::type_name::<$type>(), None::<Reads>)),*]
    };
}

fn types() -> Vec<(&'static str, &'static str, Option<Reads>)> {
    let mut types = messages! {
        "ContainerCreate" = ContainerCreate;
        "ContainerCreateResponse" = ContainerCreateResponse;
        "ContainerExecuteProcess" = ContainerExecuteProcess;
        "ContainerExecuteProcessResponse" = ContainerExecuteProcessResponse;
        "ContainerGetProperties" = ContainerGetProperties;
        "ContainerGetPropertiesResponse" = ContainerGetPropertiesResponse;
        "ContainerModifySettings" = ContainerModifySettings;
        "ContainerNotification" = ContainerNotification;
        "ContainerResizeConsole" = ContainerResizeConsole;
        "ContainerSignalProcess" = ContainerSignalProcess;
        "ContainerWaitForProcess" = ContainerWaitForProcess;
        "ContainerWaitForProcessResponse" = ContainerWaitForProcessResponse;
        "DumpStacksResponse" = DumpStacksResponse;
        "ErrorRecord" = ErrorRecord;
        "ExecuteProcessSettings" = ExecuteProcessSettings;
        "ExecuteProcessVsockStdioRelaySettings" = VsockStdioRelaySettings;
        "GcsCapabilities" = GcsCapabilities;
        "GcsGuestCapabilities" = GcsGuestCapabilities;
        "MappedDirectory" = v1::MappedDirectory;
        "MappedVirtualDisk" = v1::MappedVirtualDisk;
        "MessageBase" = MessageBase;
        "MessageResponseBase" = MessageResponseBase;
        "NegotiateProtocol" = NegotiateProtocol;
        "NegotiateProtocolResponse" = NegotiateProtocolResponse;
        "NetworkAdapter" = v1::NetworkAdapter;
        "ProcessDetails" = ProcessDetails;
        "ProcessParameters" = ProcessParameters;
        "Properties" = Properties;
        "PropertiesV2" = PropertiesV2;
        "PropertyQuery" = PropertyQuery;
        "ProtocolSupport" = ProtocolSupport;
        "ResourceModificationRequestResponse" = ModifyRequest;
        "SchemaVersion" = SchemaVersion;
        "SignalProcessOptions" = SignalProcessOptions;
        "VMHostedContainerSettings" = v1::VmHostedContainerSettings;
        "VMHostedContainerSettingsV2" = VmHostedContainerSettingsV2;
    };
    types.extend(plain! {
        "ActiveOperation" = ActiveOperation;
        "MessageCategory" = MessageCategory;
        "MessageHeader" = MessageHeader;
        "MessageIdentifier" = MessageId;
        "MessageType" = MessageKind;
        "NotificationType" = NotificationType;
        "OsType" = OsType;
        "PropertyType" = PropertyType;
        "ProtocolVersion" = ProtocolVersion;
        "RequestType" = RequestType;
        "SequenceID" = SequenceId;
    });
    types.sort_unstable_by_key(|(name, ..)| *name);
    types
}

macro_rules! constants {
    ($($name:literal = $($path:ident)::+ $(. $part:tt $(($($none:tt)*))?)?;)*) => {
        vec![$(($name, stringify!($($path)::+), json!($($path)::+ $(. $part $(($($none)*))?)?))),*]
    };
}

fn constants() -> Vec<(&'static str, String, Value)> {
    let table = constants! {
        "MtNone" = MessageKind::NONE_BITS;
        "MtRequest" = MessageKind::REQUEST_BITS;
        "MtResponse" = MessageKind::RESPONSE_BITS;
        "MtNotification" = MessageKind::NOTIFICATION_BITS;
        "McNone" = MessageCategory::NONE.0;
        "McComputeSystem" = MessageCategory::COMPUTE_SYSTEM.0;
        "NtNone" = NotificationType::None;
        "NtGracefulExit" = NotificationType::GracefulExit;
        "NtForcedExit" = NotificationType::ForcedExit;
        "NtUnexpectedExit" = NotificationType::UnexpectedExit;
        "NtReboot" = NotificationType::Reboot;
        "NtConstructed" = NotificationType::Constructed;
        "NtStarted" = NotificationType::Started;
        "NtPaused" = NotificationType::Paused;
        "NtUnknown" = NotificationType::Unknown;
        "AoNone" = ActiveOperation::None;
        "AoConstruct" = ActiveOperation::Construct;
        "AoStart" = ActiveOperation::Start;
        "AoPause" = ActiveOperation::Pause;
        "AoResume" = ActiveOperation::Resume;
        "AoShutdown" = ActiveOperation::Shutdown;
        "AoTerminate" = ActiveOperation::Terminate;
        "PtMemory" = PropertyType::Memory;
        "PtCPUGroup" = PropertyType::CpuGroup;
        "PtStatistics" = PropertyType::Statistics;
        "PtProcessList" = PropertyType::ProcessList;
        "PtPendingUpdates" = PropertyType::PendingUpdates;
        "PtTerminateOnLastHandleClosed" = PropertyType::TerminateOnLastHandleClosed;
        "PtMappedDirectory" = PropertyType::MappedDirectory;
        "PtSystemGUID" = PropertyType::SystemGuid;
        "PtNetwork" = PropertyType::Network;
        "PtMappedPipe" = PropertyType::MappedPipe;
        "PtMappedVirtualDisk" = PropertyType::MappedVirtualDisk;
        "RtAdd" = RequestType::Add;
        "RtRemove" = RequestType::Remove;
        "RtUpdate" = RequestType::Update;
        "InfiniteWaitTimeout" = INFINITE_WAIT_TIMEOUT;
        "MessageHeaderSize" = MESSAGE_HEADER_SIZE;
        "OsTypeLinux" = OsType::Linux;
        "PvInvalid" = ProtocolVersion::INVALID.0;
        "PvV4" = ProtocolVersion::V4.0;
        "PvMax" = ProtocolVersion::MAX.0;
    };
    let ids = MessageId::NAMED.iter().map(|(id, name)| {
        let path = format!("MessageId(0x{:08x})", id.0);
        (*name, path, json!(id.0))
    });
    let table = table
        .into_iter()
        .map(|(name, path, value)| (name, path.replace(' ', ""), value));
    table.chain(ids).collect()
}

const FUNCTIONS: [(&str, &str); 5] = [
    ("GetResponseIdentifier", "MessageId::response"),
    ("MessageIdentifier.String", "MessageId: Display"),
    (
        "MessageResponseBase.Base",
        "the `base` field of each response",
    ),
    ("SchemaVersion.Cmp", "SchemaVersion: Ord"),
    (
        "UnmarshalContainerModifySettings",
        "ContainerModifySettings: json::Decode",
    ),
];

#[test]
fn every_type_has_a_counterpart_that_reads_its_members() {
    let names = names();
    let types = types();
    let listed: Vec<_> = types.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names.types, listed);
    for (name, path, reads) in types {
        let Some(reads) = reads else { continue };
        for member in &names.members[name] {
            // What `Settings` holds depends on the resource: see the golden vectors.
            let known = reads(member)
                || (name, member.as_str()) == ("ResourceModificationRequestResponse", "Settings");
            assert!(known, "{name}.{member} is not read by {path}");
        }
    }
}

#[test]
fn every_constant_has_its_value() {
    let here: BTreeMap<_, _> = constants()
        .into_iter()
        .map(|(name, _, v)| (name, v))
        .collect();
    for (name, value) in names().constants {
        assert_eq!(here.get(name.as_str()), Some(&value), "{name}");
    }
}

#[test]
fn every_function_has_a_counterpart() {
    let listed: Vec<_> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names().functions, listed);
    assert_eq!(MessageId::CREATE.response(), MessageId::RESPONSE_CREATE);
    assert_eq!(MessageId::START.to_string(), "ComputeSystemStartV1");
    assert_eq!(MessageId(0xffff_ffff).to_string(), "0xffffffff");
    let (old, new) = (
        SchemaVersion { major: 2, minor: 0 },
        SchemaVersion { major: 3, minor: 0 },
    );
    assert!(old < SchemaVersion::V2_1 && SchemaVersion::V2_1 < new);
}

#[test]
fn the_coverage_page_shows_these_tables() {
    let mut page = String::from(
        "# What stands for what\n\nEvery name that hcsshim's `prot` package documents (v0.12.3) and its counterpart in this\ncrate. Written and checked by `tests/coverage.rs`.\n",
    );
    let mut table = |title: &str, rows: Vec<(&str, String)>| {
        write!(page, "\n## {title}\n\n| `prot` | here |\n|---|---|\n").unwrap();
        for (name, path) in rows {
            writeln!(page, "| `{name}` | `{path}` |").unwrap();
        }
    };
    let types = types().into_iter();
    table(
        "Types",
        types
            .map(|(name, path, _)| (name, path.to_owned()))
            .collect(),
    );
    table(
        "Functions",
        FUNCTIONS
            .map(|(name, path)| (name, path.replace('`', "")))
            .into(),
    );
    table(
        "Constants",
        constants()
            .into_iter()
            .map(|(name, path, _)| (name, path))
            .collect(),
    );

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/prot/COVERAGE.md");
    if std::env::var_os("UPDATE_COVERAGE").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(there, page, "write it anew with UPDATE_COVERAGE=1");
}

/// Between this line and the next empty one, `README.md` has the types by module.
const README_TABLE: &str = "| module of `gcs::prot` | types of the package `prot` |\n";

#[test]
fn the_readme_names_the_module_of_every_type() {
    let mut modules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, path, _) in types() {
        let module = path.strip_prefix("gcs::prot::").unwrap_or(path);
        // `SequenceID` is a number here, and stands with the header that holds it.
        let module = module.rsplit_once("::").map_or("header", |(of, _)| of);
        modules.entry(module).or_default().push(name);
    }
    let mut table = format!("{README_TABLE}|---|---|\n");
    for (module, names) in modules {
        writeln!(table, "| `{module}` | `{}` |", names.join("` `")).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (before, rest) = readme.split_once(README_TABLE).unwrap();
    let (there, after) = rest.split_once("\n\n").unwrap();
    if std::env::var_os("UPDATE_COVERAGE").is_some() {
        std::fs::write(path, format!("{before}{table}\n{after}")).unwrap();
        return;
    }
    let there = format!("{README_TABLE}{there}\n");
    assert_eq!(there, table, "write it anew with UPDATE_COVERAGE=1");
}
