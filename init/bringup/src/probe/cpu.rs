//! The processor and the hypervisor below it, from CPUID. Leaves and bits of Hyper-V are those of
//! its Top Level Functional Specification, chapter "Feature and Interface Discovery".

use std::fmt::Write as _;

use serde::Serialize;

use super::tree::{Tree, CPUID};

/// Registers of one leaf: EAX, EBX, ECX, EDX.
type Registers = [u32; 4];
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// First leaf of a hypervisor, and where a second interface begins when there are two.
const HYPERVISOR: u32 = 0x4000_0000;
const SECOND: u32 = 0x4000_0100;
/// Leaves that are looked at beyond the hypervisor's own.
const PLAIN: &[u32] = &[0, 1, 0x8000_0002, 0x8000_0003, 0x8000_0004];
/// Where to stop when a hypervisor claims more.
const MOST_LEAVES: u32 = 0x40;
/// "Hv#1"
const HV1: u32 = 0x3123_7648;

/// What hypervisors call themselves in EBX, ECX and EDX of their first leaf.
const SIGNATURES: &[(&str, &str)] = &[
    ("Microsoft Hv", "Hyper-V"),
    ("KVMKVMKVM", "KVM"),
    ("Linux KVM Hv", "KVM as Hyper-V"),
    ("TCGTCGTCGTCG", "QEMU TCG"),
    ("VMwareVMware", "VMware"),
    ("XenVMMXenVMM", "Xen"),
    ("VBoxVBoxVBox", "VirtualBox"),
    ("bhyve bhyve", "bhyve"),
    ("ACRNACRNACRN", "ACRN"),
];

/// One bit: leaf above [`HYPERVISOR`], register, bit, name.
struct Bit(u32, usize, u8, &'static str);

/// What VMBus and the clock need first; the rest as the specification lists it.
const FEATURES: &[Bit] = &[
    Bit(3, EAX, 0, "vp-runtime"),
    Bit(3, EAX, 1, "reference-counter"),
    Bit(3, EAX, 2, "synic"),
    Bit(3, EAX, 3, "synthetic-timers"),
    Bit(3, EAX, 4, "apic-msrs"),
    Bit(3, EAX, 5, "hypercall-msrs"),
    Bit(3, EAX, 6, "vp-index"),
    Bit(3, EAX, 7, "reset-msr"),
    Bit(3, EAX, 8, "statistics-pages"),
    Bit(3, EAX, 9, "reference-tsc"),
    Bit(3, EAX, 10, "guest-idle-msr"),
    Bit(3, EAX, 11, "frequency-msrs"),
    Bit(3, EAX, 12, "debug-msrs"),
    Bit(3, EAX, 13, "reenlightenment"),
    Bit(3, EAX, 15, "tsc-invariant"),
    Bit(3, EBX, 0, "create-partitions"),
    Bit(3, EBX, 1, "partition-id"),
    Bit(3, EBX, 4, "post-messages"),
    Bit(3, EBX, 5, "signal-events"),
    Bit(3, EBX, 6, "create-port"),
    Bit(3, EBX, 7, "connect-port"),
    Bit(3, EBX, 12, "cpu-management"),
    Bit(3, EBX, 20, "extended-hypercalls"),
    Bit(3, EBX, 22, "isolation"),
    Bit(3, EDX, 3, "cpu-dynamic-partitioning"),
    Bit(3, EDX, 4, "xmm-hypercall-input"),
    Bit(3, EDX, 5, "guest-idle"),
    Bit(3, EDX, 8, "timer-frequencies"),
    Bit(3, EDX, 10, "guest-crash-msrs"),
    Bit(3, EDX, 14, "extended-flush"),
    Bit(3, EDX, 15, "xmm-hypercall-output"),
    Bit(3, EDX, 19, "direct-synthetic-timers"),
];

const RECOMMENDATIONS: &[Bit] = &[
    Bit(4, EAX, 0, "hypercall-address-switch"),
    Bit(4, EAX, 1, "hypercall-local-flush"),
    Bit(4, EAX, 2, "hypercall-remote-flush"),
    Bit(4, EAX, 3, "apic-msrs"),
    Bit(4, EAX, 4, "reset-msr"),
    Bit(4, EAX, 5, "relaxed-timing"),
    Bit(4, EAX, 6, "dma-remapping"),
    Bit(4, EAX, 7, "interrupt-remapping"),
    Bit(4, EAX, 9, "no-auto-eoi"),
    Bit(4, EAX, 10, "cluster-ipi"),
    Bit(4, EAX, 11, "processor-masks"),
    Bit(4, EAX, 12, "nested-hypervisor"),
    Bit(4, EAX, 14, "enlightened-vmcs"),
    Bit(4, EAX, 18, "no-shared-cores"),
];

const HARDWARE: &[Bit] = &[
    Bit(6, EAX, 0, "apic-overlay"),
    Bit(6, EAX, 1, "msr-bitmaps"),
    Bit(6, EAX, 2, "performance-counters"),
    Bit(6, EAX, 3, "nested-paging"),
    Bit(6, EAX, 4, "dma-remapping"),
    Bit(6, EAX, 5, "interrupt-remapping"),
];

const ISOLATION: &[&str] = &["none", "vbs", "snp", "tdx"];

#[derive(Debug, Default, Serialize)]
pub struct Cpu {
    pub vendor: String,
    pub model: String,
    /// Ranges of processors, as the kernel writes them: `0-3`.
    pub present: Option<String>,
    pub online: Option<String>,
}

/// What CPUID says of the hypervisor; the lists are empty unless it is Hyper-V's interface.
#[derive(Debug, Serialize)]
pub struct Hypervisor {
    pub name: &'static str,
    pub signature: String,
    /// A second interface besides the first, for example KVM's besides Hyper-V's.
    pub second_signature: Option<String>,
    /// `Hv#1` and what follows is there.
    pub is_hyperv: bool,
    /// Major, minor, build, service pack and service number.
    pub version: Option<String>,
    pub features: Vec<&'static str>,
    pub recommendations: Vec<&'static str>,
    pub hardware: Vec<&'static str>,
    pub limits: Option<Limits>,
    pub isolation: Option<&'static str>,
    /// The registers themselves.
    pub leaves: Vec<Leaf>,
}

/// All in hexadecimal.
#[derive(Debug, Serialize)]
pub struct Leaf {
    pub leaf: String,
    pub eax: String,
    pub ebx: String,
    pub ecx: String,
    pub edx: String,
}

#[derive(Debug, Serialize)]
pub struct Limits {
    pub virtual_processors: u32,
    pub logical_processors: u32,
    /// Turns before a spinning lock should tell the hypervisor; none: never.
    pub spin_retries: Option<u32>,
    pub physical_address_bits: u32,
}

impl Hypervisor {
    pub fn can(&self, feature: &str) -> bool {
        self.features.contains(&feature)
    }
}

/// The leaves, by number. Subleaf 0 is the only one that is needed.
struct Leaves(Vec<(u32, Registers)>);

impl Leaves {
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let words = line.split_whitespace();
            let numbers: Vec<u32> = words
                .map(|word| u32::from_str_radix(word, 16).ok())
                .collect::<Option<_>>()?;
            let [leaf, subleaf, a, b, c, d] = numbers.try_into().ok()?;
            (subleaf == 0).then_some((leaf, [a, b, c, d]))
        };
        Self(text.lines().filter_map(line).collect())
    }

    fn get(&self, leaf: u32) -> Option<&Registers> {
        let found = self.0.iter().find(|(number, _)| *number == leaf);
        found.map(|(_, registers)| registers)
    }

    fn names(&self, table: &[Bit]) -> Vec<&'static str> {
        let set = |bit: &&Bit| {
            let Bit(leaf, register, number, _) = **bit;
            self.get(HYPERVISOR + leaf)
                .is_some_and(|registers| registers[register] >> number & 1 == 1)
        };
        table.iter().filter(set).map(|bit| bit.3).collect()
    }

    fn signature(&self, leaf: u32) -> Option<String> {
        let [_, b, c, d] = *self.get(leaf)?;
        Some(letters(&[b, c, d])).filter(|text| !text.is_empty())
    }
}

fn letters(registers: &[u32]) -> String {
    let bytes: Vec<u8> = registers.iter().flat_map(|r| r.to_le_bytes()).collect();
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c == ' ');
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Reads this processor; the text is what stands at [`CPUID`].
pub fn registers() -> String {
    let mut text = String::new();
    let mut take = |leaf: u32| {
        let [a, b, c, d] = crate::sys::cpuid(leaf)?;
        // Writing to a string cannot fail.
        writeln!(text, "{leaf:08x} 00000000 {a:08x} {b:08x} {c:08x} {d:08x}").ok();
        Some([a, b, c, d])
    };
    let first = |registers: Option<Registers>, leaf: u32| {
        let highest = registers.map_or(0, |registers| registers[EAX]);
        // KVM gives 0 for "one more".
        highest.clamp(leaf, leaf + MOST_LEAVES)
    };
    for leaf in PLAIN {
        if take(*leaf).is_none() {
            return text;
        }
    }
    for base in [HYPERVISOR, SECOND] {
        let registers = take(base);
        let named = registers.is_some_and(|[_, b, c, d]| letters(&[b, c, d]).len() > 3);
        if named {
            for leaf in base + 1..=first(registers, base) {
                take(leaf);
            }
        }
    }
    text
}

pub fn read(tree: &dyn Tree) -> (Cpu, Option<Hypervisor>) {
    let leaves = Leaves::parse(&tree.text(CPUID).unwrap_or_default());
    let order = |[_, b, c, d]: Registers| letters(&[b, d, c]);
    let brand: Vec<u32> = (0x8000_0002..=0x8000_0004)
        .filter_map(|leaf| leaves.get(leaf))
        .flatten()
        .copied()
        .collect();
    let cpu = Cpu {
        vendor: leaves.get(0).copied().map(order).unwrap_or_default(),
        model: letters(&brand),
        present: tree.text("/sys/devices/system/cpu/present"),
        online: tree.text("/sys/devices/system/cpu/online"),
    };
    // Bit 31 of ECX says that there is a hypervisor; without it the leaves are something else's.
    let below = leaves.get(1).is_some_and(|r| r[ECX] >> 31 == 1);
    (cpu, below.then(|| hypervisor(&leaves)))
}

fn hypervisor(leaves: &Leaves) -> Hypervisor {
    let signature = leaves.signature(HYPERVISOR).unwrap_or_default();
    let known = SIGNATURES.iter().find(|(text, _)| *text == signature);
    let is_hyperv = leaves.get(HYPERVISOR + 1).is_some_and(|r| r[EAX] == HV1);
    let hv = |offset: u32| leaves.get(HYPERVISOR + offset).filter(|_| is_hyperv);
    let named = |table| match is_hyperv {
        true => leaves.names(table),
        false => Vec::new(),
    };
    let version = hv(2).map(|[build, number, pack, service]| {
        let (major, minor) = (number >> 16, number & 0xffff);
        format!("{major}.{minor}.{build}-{pack}-{}", service & 0xff_ffff)
    });
    let limits = hv(5).map(|of| {
        let advice = hv(4).copied().unwrap_or_default();
        Limits {
            virtual_processors: of[EAX],
            logical_processors: of[EBX],
            spin_retries: Some(advice[EBX]).filter(|retries| *retries != u32::MAX),
            physical_address_bits: advice[ECX] & 0x7f,
        }
    });
    let isolation = hv(0xc).map(|registers| {
        let kind = (registers[EBX] & 0xf) as usize;
        ISOLATION.get(kind).copied().unwrap_or("unknown")
    });
    let hex = |word: u32| format!("{word:08x}");
    let raw = |(leaf, registers): &(u32, Registers)| {
        let [eax, ebx, ecx, edx] = registers.map(hex);
        let leaf_in_range = leaf >> 16 == HYPERVISOR >> 16;
        (leaf_in_range && *registers != [0; 4]).then_some(Leaf {
            leaf: hex(*leaf),
            eax,
            ebx,
            ecx,
            edx,
        })
    };
    Hypervisor {
        name: known.map_or("unknown", |(_, name)| name),
        signature,
        second_signature: leaves.signature(SECOND),
        is_hyperv,
        version,
        features: named(FEATURES),
        recommendations: named(RECOMMENDATIONS),
        hardware: named(HARDWARE),
        limits,
        isolation,
        leaves: leaves.0.iter().filter_map(raw).collect(),
    }
}
