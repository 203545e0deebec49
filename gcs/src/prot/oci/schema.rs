//! The runtime specification 1.1.0 as a table: member, type, and whether the reference writes
//! it even when it is zero (`req`) or leaves it out then (`opt`).

/// The type of a value.
pub enum Shape {
    /// Anything; kept as sent.
    Any,
    Text,
    Flag,
    /// Bits with the sign.
    Signed(u32),
    /// Bits.
    Unsigned(u32),
    List(&'static Shape),
    /// Any name to one shape.
    Map(&'static Shape),
    Record(&'static [Member]),
}

pub struct Member {
    pub name: &'static str,
    pub shape: Shape,
    pub always: bool,
}

impl Shape {
    /// For "… is wanted".
    pub fn text(&self) -> &'static str {
        match self {
            Self::Any => "any value",
            Self::Text => "a string",
            Self::Flag => "a boolean",
            Self::Signed(32) => "a signed 32-bit integer",
            Self::Signed(_) => "a signed 64-bit integer",
            Self::Unsigned(16) => "an integer of 0 to 65535",
            Self::Unsigned(32) => "an unsigned 32-bit integer",
            Self::Unsigned(_) => "an unsigned 64-bit integer",
            Self::List(_) => "an array",
            Self::Map(_) | Self::Record(_) => "an object",
        }
    }
}

const fn opt(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        shape,
        always: false,
    }
}

const fn req(name: &'static str, shape: Shape) -> Member {
    Member {
        name,
        shape,
        always: true,
    }
}

use Shape::{Any, Flag, List, Map, Record, Text};

const TEXTS: Shape = List(&Text);
const I32: Shape = Shape::Signed(32);
const I64: Shape = Shape::Signed(64);
const U16: Shape = Shape::Unsigned(16);
const U32: Shape = Shape::Unsigned(32);
const U64: Shape = Shape::Unsigned(64);

pub const SPEC: Shape = Record(&[
    req("ociVersion", Text),
    opt("process", PROCESS),
    opt("root", Record(&[req("path", Text), opt("readonly", Flag)])),
    opt("hostname", Text),
    opt("domainname", Text),
    opt("mounts", List(&MOUNT)),
    opt("hooks", HOOKS),
    opt("annotations", Map(&Text)),
    opt("linux", LINUX),
    opt("solaris", SOLARIS),
    opt("windows", WINDOWS),
    opt("vm", VM),
    opt("zos", Record(&[opt("devices", List(&DEVICE))])),
]);

pub const PROCESS: Shape = Record(&[
    opt("terminal", Flag),
    opt(
        "consoleSize",
        Record(&[req("height", U64), req("width", U64)]),
    ),
    req("user", USER),
    opt("args", TEXTS),
    opt("commandLine", Text),
    opt("env", TEXTS),
    req("cwd", Text),
    opt("capabilities", CAPABILITIES),
    opt("rlimits", List(&RLIMIT)),
    opt("noNewPrivileges", Flag),
    opt("apparmorProfile", Text),
    opt("oomScoreAdj", I64),
    opt("scheduler", SCHEDULER),
    opt("selinuxLabel", Text),
    opt(
        "ioPriority",
        Record(&[req("class", Text), req("priority", I64)]),
    ),
]);

const USER: Shape = Record(&[
    req("uid", U32),
    req("gid", U32),
    opt("umask", U32),
    opt("additionalGids", List(&U32)),
    opt("username", Text),
]);

const CAPABILITIES: Shape = Record(&[
    opt("bounding", TEXTS),
    opt("effective", TEXTS),
    opt("inheritable", TEXTS),
    opt("permitted", TEXTS),
    opt("ambient", TEXTS),
]);

const RLIMIT: Shape = Record(&[req("type", Text), req("hard", U64), req("soft", U64)]);

const SCHEDULER: Shape = Record(&[
    req("policy", Text),
    opt("nice", I32),
    opt("priority", I32),
    opt("flags", TEXTS),
    opt("runtime", U64),
    opt("deadline", U64),
    opt("period", U64),
]);

const MOUNT: Shape = Record(&[
    req("destination", Text),
    opt("type", Text),
    opt("source", Text),
    opt("options", TEXTS),
    opt("uidMappings", List(&ID_MAPPING)),
    opt("gidMappings", List(&ID_MAPPING)),
]);

const ID_MAPPING: Shape = Record(&[
    req("containerID", U32),
    req("hostID", U32),
    req("size", U32),
]);

const HOOKS: Shape = Record(&[
    opt("prestart", List(&HOOK)),
    opt("createRuntime", List(&HOOK)),
    opt("createContainer", List(&HOOK)),
    opt("startContainer", List(&HOOK)),
    opt("poststart", List(&HOOK)),
    opt("poststop", List(&HOOK)),
]);

const HOOK: Shape = Record(&[
    req("path", Text),
    opt("args", TEXTS),
    opt("env", TEXTS),
    opt("timeout", I64),
]);

const LINUX: Shape = Record(&[
    opt("uidMappings", List(&ID_MAPPING)),
    opt("gidMappings", List(&ID_MAPPING)),
    opt("sysctl", Map(&Text)),
    opt("resources", LINUX_RESOURCES),
    opt("cgroupsPath", Text),
    opt(
        "namespaces",
        List(&Record(&[req("type", Text), opt("path", Text)])),
    ),
    opt("devices", List(&DEVICE)),
    opt("seccomp", SECCOMP),
    opt("rootfsPropagation", Text),
    opt("maskedPaths", TEXTS),
    opt("readonlyPaths", TEXTS),
    opt("mountLabel", Text),
    opt("intelRdt", INTEL_RDT),
    opt(
        "personality",
        Record(&[req("domain", Text), opt("flags", TEXTS)]),
    ),
    opt(
        "timeOffsets",
        Map(&Record(&[opt("secs", I64), opt("nanosecs", U32)])),
    ),
]);

const DEVICE: Shape = Record(&[
    req("path", Text),
    req("type", Text),
    req("major", I64),
    req("minor", I64),
    opt("fileMode", U32),
    opt("uid", U32),
    opt("gid", U32),
]);

const INTEL_RDT: Shape = Record(&[
    opt("closID", Text),
    opt("l3CacheSchema", Text),
    opt("memBwSchema", Text),
    opt("enableCMT", Flag),
    opt("enableMBM", Flag),
]);

const SECCOMP: Shape = Record(&[
    req("defaultAction", Text),
    opt("defaultErrnoRet", U64),
    opt("architectures", TEXTS),
    opt("flags", TEXTS),
    opt("listenerPath", Text),
    opt("listenerMetadata", Text),
    opt("syscalls", List(&SYSCALL)),
]);

const SYSCALL: Shape = Record(&[
    req("names", TEXTS),
    req("action", Text),
    opt("errnoRet", U64),
    opt("args", List(&SYSCALL_ARG)),
]);

const SYSCALL_ARG: Shape = Record(&[
    req("index", U64),
    req("value", U64),
    opt("valueTwo", U64),
    req("op", Text),
]);

pub const LINUX_RESOURCES: Shape = Record(&[
    opt("devices", List(&DEVICE_CGROUP)),
    opt("memory", MEMORY),
    opt("cpu", CPU),
    opt("pids", Record(&[req("limit", I64)])),
    opt("blockIO", BLOCK_IO),
    opt(
        "hugepageLimits",
        List(&Record(&[req("pageSize", Text), req("limit", U64)])),
    ),
    opt("network", NETWORK),
    opt(
        "rdma",
        Map(&Record(&[opt("hcaHandles", U32), opt("hcaObjects", U32)])),
    ),
    opt("unified", Map(&Text)),
]);

const DEVICE_CGROUP: Shape = Record(&[
    req("allow", Flag),
    opt("type", Text),
    opt("major", I64),
    opt("minor", I64),
    opt("access", Text),
]);

const MEMORY: Shape = Record(&[
    opt("limit", I64),
    opt("reservation", I64),
    opt("swap", I64),
    opt("kernel", I64),
    opt("kernelTCP", I64),
    opt("swappiness", U64),
    opt("disableOOMKiller", Flag),
    opt("useHierarchy", Flag),
    opt("checkBeforeUpdate", Flag),
]);

const CPU: Shape = Record(&[
    opt("shares", U64),
    opt("quota", I64),
    opt("burst", U64),
    opt("period", U64),
    opt("realtimeRuntime", I64),
    opt("realtimePeriod", U64),
    opt("cpus", Text),
    opt("mems", Text),
    opt("idle", I64),
]);

const BLOCK_IO: Shape = Record(&[
    opt("weight", U16),
    opt("leafWeight", U16),
    opt("weightDevice", List(&WEIGHT_DEVICE)),
    opt("throttleReadBpsDevice", List(&THROTTLE_DEVICE)),
    opt("throttleWriteBpsDevice", List(&THROTTLE_DEVICE)),
    opt("throttleReadIOPSDevice", List(&THROTTLE_DEVICE)),
    opt("throttleWriteIOPSDevice", List(&THROTTLE_DEVICE)),
]);

const WEIGHT_DEVICE: Shape = Record(&[
    req("major", I64),
    req("minor", I64),
    opt("weight", U16),
    opt("leafWeight", U16),
]);

const THROTTLE_DEVICE: Shape = Record(&[req("major", I64), req("minor", I64), req("rate", U64)]);

const NETWORK: Shape = Record(&[
    opt("classID", U32),
    opt(
        "priorities",
        List(&Record(&[req("name", Text), req("priority", U32)])),
    ),
]);

const SOLARIS: Shape = Record(&[
    opt("milestone", Text),
    opt("limitpriv", Text),
    opt("maxShmMemory", Text),
    opt("anet", List(&Map(&Any))),
    opt("cappedCPU", Record(&[opt("ncpus", Text)])),
    opt(
        "cappedMemory",
        Record(&[opt("physical", Text), opt("swap", Text)]),
    ),
]);

const WINDOWS: Shape = Record(&[
    req("layerFolders", TEXTS),
    opt(
        "devices",
        List(&Record(&[req("id", Text), req("idType", Text)])),
    ),
    opt("resources", WINDOWS_RESOURCES),
    opt("credentialSpec", Any),
    opt("servicing", Flag),
    opt("ignoreFlushesDuringBoot", Flag),
    opt("hyperv", Record(&[opt("utilityVMPath", Text)])),
    opt("network", WINDOWS_NETWORK),
]);

const WINDOWS_RESOURCES: Shape = Record(&[
    opt("memory", Record(&[opt("limit", U64)])),
    opt(
        "cpu",
        Record(&[opt("count", U64), opt("shares", U16), opt("maximum", U16)]),
    ),
    opt(
        "storage",
        Record(&[opt("iops", U64), opt("bps", U64), opt("sandboxSize", U64)]),
    ),
]);

const WINDOWS_NETWORK: Shape = Record(&[
    opt("endpointList", TEXTS),
    opt("allowUnqualifiedDNSQuery", Flag),
    opt("DNSSearchList", TEXTS),
    opt("networkSharedContainerName", Text),
    opt("networkNamespace", Text),
]);

const VM: Shape = Record(&[
    opt(
        "hypervisor",
        Record(&[req("path", Text), opt("parameters", TEXTS)]),
    ),
    req("kernel", VM_KERNEL),
    opt("image", Record(&[req("path", Text), req("format", Text)])),
]);

const VM_KERNEL: Shape = Record(&[
    req("path", Text),
    opt("parameters", TEXTS),
    opt("initrd", Text),
]);
