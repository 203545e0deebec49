//! One good request for each message and each resource, or as good as one can be that does
//! nothing: [`hostile`](super::hostile) spoils them member by member.

use serde_json::{json, Value};

use super::hostile::{FAIL, NOT_FOUND, NOT_IMPLEMENTED, OK};

/// No container has this id.
const NOBODY: &str = "hostile";
const ACTIVITY: &str = "00000000-0000-0000-0000-000000000000";

/// A good request, or as good as one can be that does nothing.
pub struct Base {
    pub name: &'static str,
    pub message: u32,
    pub document: Value,
    pub code: u32,
    /// The answer does not depend on the body.
    pub deaf: bool,
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

pub fn bases() -> Vec<Base> {
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
