use proptest::prelude::*;
use serde_json::json;

use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0;

/// What the kernel would do: runs the program on one call. With how many instructions it took.
fn run(filter: &Filter, machine: u32, number: u32, args: [u64; 6]) -> (u32, usize) {
    let word = |offset: u32| match offset {
        0 => number,
        4 => machine,
        16.. => {
            let arg = args[((offset - 16) / 8) as usize];
            if offset & 4 == 0 {
                arg as u32
            } else {
                (arg >> 32) as u32
            }
        }
        other => panic!("reads at {other}"),
    };
    let (mut at, mut accumulator) = (0, 0);
    for taken in 1.. {
        let (operation, yes, no, value) = filter.instructions[at].parts();
        at += 1;
        let mut jump = |holds| at += usize::from(if holds { yes } else { no });
        match operation {
            0x20 => accumulator = word(value),
            0x54 => accumulator &= value,
            0x05 => at += value as usize,
            0x15 => jump(accumulator == value),
            0x25 => jump(accumulator > value),
            0x35 => jump(accumulator >= value),
            0x06 => return (value, taken),
            other => panic!("operation {other:x}"),
        }
    }
    unreachable!("jumps only go forward")
}

fn verdict(filter: &Filter, machine: u32, number: u32, args: [u64; 6]) -> u32 {
    run(filter, machine, number, args).0
}

fn filter(profile: Value) -> Filter {
    compile(&profile).unwrap()
}

fn call(filter: &Filter, name: &str, args: [u64; 6]) -> u32 {
    verdict(filter, X86_64, names::number(name).unwrap(), args)
}

#[test]
fn actions_have_the_values_of_the_kernel() {
    for (action, errno, value) in [
        ("ALLOW", None, 0x7fff_0000),
        ("ERRNO", None, 0x0005_0001),
        ("ERRNO", Some(38), 0x0005_0026),
        ("ERRNO", Some(0), 0x0005_0000),
        ("KILL", None, 0),
        ("KILL_THREAD", None, 0),
        ("KILL_PROCESS", None, 0x8000_0000),
        ("TRAP", None, 0x0003_0000),
        ("TRACE", Some(7), 0x7ff0_0007),
        ("LOG", None, 0x7ffc_0000),
    ] {
        let mut entry = json!({"names": ["mkdir", "not_of_this_machine"], "action": format!("SCMP_ACT_{action}")});
        if let Some(errno) = errno {
            entry["errnoRet"] = json!(errno);
        }
        let default = if action == "ALLOW" {
            "SCMP_ACT_ERRNO"
        } else {
            "SCMP_ACT_ALLOW"
        };
        let filter = filter(json!({"defaultAction": default, "syscalls": [entry]}));
        assert_eq!(call(&filter, "mkdir", [0; 6]), value, "{action}");
        assert_ne!(call(&filter, "read", [0; 6]), value, "{action}");
    }
}

#[test]
fn other_machines_and_newer_calls_are_told_from_forbidden_ones() {
    let entry = json!({"names": ["read", "write", "openat"], "action": "SCMP_ACT_ALLOW"});
    let with = |architectures| {
        filter(json!({
            "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry],
            "architectures": architectures,
        }))
    };
    let native = with(json!(["SCMP_ARCH_X86_64"]));
    let all = with(json!([
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32"
    ]));
    let x32_read = 0x4000_0000;
    for (filter, machine, number, value) in [
        (&native, X86_64, 0, ALLOW),
        (&native, X86_64, 2, EPERM),
        (&native, X86_64, 256, EPERM),
        // openat is 257, and the profile knows of nothing newer.
        (&native, X86_64, 258, ENOSYS),
        (&native, X86_64, u32::MAX, EPERM),
        (&native, I386, 3, KILL),
        (&native, X86_64, x32_read, KILL),
        (&all, X86_64, 0, ALLOW),
        (&all, I386, 3, ENOSYS),
        (&all, X86_64, x32_read, ENOSYS),
    ] {
        assert_eq!(
            verdict(filter, machine, number, [0; 6]),
            value,
            "{machine:x} {number:x}"
        );
    }
    // A profile that lets everything through does not stop at what it does not know.
    let open = filter(json!({"defaultAction": "SCMP_ACT_LOG",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}]}));
    assert_eq!(verdict(&open, X86_64, 400, [0; 6]), 0x7ffc_0000);
}

#[test]
fn arguments_decide() {
    let entry = |args| {
        filter(json!({"defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["clone", "personality"], "action": "SCMP_ACT_ALLOW", "args": args}]}))
    };
    let one = |op: &str, value: u64, two: u64| {
        entry(
            json!([{"index": 1, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")}]),
        )
    };
    let big = 5 << 32;
    for (op, value, two, allowed, refused) in [
        ("EQ", big | 7, 0, vec![big | 7], vec![7, big, big | 8]),
        ("NE", big | 7, 0, vec![7, big, big | 8], vec![big | 7]),
        (
            "LT",
            big | 7,
            0,
            vec![0, u64::from(u32::MAX), big, big | 6],
            vec![big | 7, 6 << 32],
        ),
        ("LE", big | 7, 0, vec![0, big | 7], vec![big | 8, 6 << 32]),
        (
            "GT",
            big | 7,
            0,
            vec![big | 8, 6 << 32],
            vec![big | 7, u64::from(u32::MAX)],
        ),
        ("GE", big | 7, 0, vec![big | 7, 6 << 32], vec![big | 6, 9]),
        // No new namespaces: bits that must be clear.
        (
            "MASKED_EQ",
            0x7e02_0000,
            0,
            vec![0x11, 1 << 40],
            vec![0x1000_0000, 0x7e02_0000],
        ),
        (
            "MASKED_EQ",
            big | 3,
            big | 1,
            vec![big | 1, big | 5],
            vec![big | 3, 1],
        ),
    ] {
        let filter = one(op, value, two);
        for (args, verdict) in [(allowed, ALLOW), (refused, EPERM)] {
            for arg in args {
                let got = call(&filter, "clone", [9, arg, 9, 9, 9, 9]);
                assert_eq!(got, verdict, "{op} {value:x} {two:x}: {arg:x}");
            }
        }
        assert_eq!(call(&filter, "read", [0; 6]), EPERM);
    }
    // Several arguments: all of them; the same twice: one of them.
    let both = entry(json!([
        {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 5, "value": 2, "op": "SCMP_CMP_EQ"}
    ]));
    assert_eq!(call(&both, "clone", [1, 0, 0, 0, 0, 2]), ALLOW);
    assert_eq!(call(&both, "clone", [1, 0, 0, 0, 0, 3]), EPERM);
    assert_eq!(call(&both, "clone", [0, 0, 0, 0, 0, 2]), EPERM);
    let either = entry(json!([
        {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}
    ]));
    for (arg, verdict) in [(0, ALLOW), (8, ALLOW), (4, EPERM)] {
        assert_eq!(call(&either, "personality", [arg, 0, 0, 0, 0, 0]), verdict);
    }
}

#[test]
fn of_several_entries_the_one_without_arguments_counts() {
    let conditional = json!({"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS",
        "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]});
    let always = json!({"names": ["kill"], "action": "SCMP_ACT_ALLOW"});
    for entries in [json!([conditional, always]), json!([always, conditional])] {
        let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries}));
        assert_eq!(call(&filter, "kill", [1, 9, 0, 0, 0, 0]), ALLOW);
    }
}

#[test]
fn what_cannot_be_enforced_is_named() {
    let with = |member: &str, value: Value| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        profile[member] = value;
        profile
    };
    let entry = |entry: Value| {
        with(
            "syscalls",
            json!([{"names": ["read"], "action": "SCMP_ACT_ERRNO"}, entry]),
        )
    };
    for (profile, words) in [
        (json!(null), "linux.seccomp"),
        (json!([]), "linux.seccomp"),
        (json!({}), "defaultAction"),
        (with("defaultAction", json!("SCMP_ACT_NOTIFY")), "NOTIFY"),
        (with("defaultErrnoRet", json!(1)), "no errno"),
        (
            with("flags", json!(["SECCOMP_FILTER_FLAG_NEW_LISTENER"])),
            "NEW_LISTENER",
        ),
        (
            with("flags", json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])),
            "listeners",
        ),
        (with("listenerPath", json!("/run/x.sock")), "listenerPath"),
        (with("architectures", json!(["SCMP_ARCH_Z80"])), "Z80"),
        (
            entry(json!({"names": ["read"], "action": "SCMP_ACT_WAIT"})),
            "[1]: action \"SCMP_ACT_WAIT\"",
        ),
        (
            entry(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000})),
            "5000",
        ),
        (
            entry(json!({"names": ["read"], "action": "SCMP_ACT_KILL"})),
            "read has another action",
        ),
        (
            entry(
                json!({"names": ["open"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}),
            ),
            "not 6",
        ),
        (
            entry(
                json!({"names": ["open"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 0, "op": "~"}]}),
            ),
            "\"~\"",
        ),
    ] {
        let why = compile(&profile).unwrap_err();
        assert!(why.contains(words), "{why}");
    }
    // One entry for each pair of neighbours that must not join, far too many conditions.
    let args: Vec<Value> = (0..6)
        .map(|index| json!({"index": index, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}))
        .collect();
    let many: Vec<Value> = (0..200)
        .map(|_| json!({"names": ["read"], "action": "SCMP_ACT_KILL", "args": args}))
        .collect();
    let why = compile(&with("syscalls", json!(many))).unwrap_err();
    assert!(why.contains("instructions"), "{why}");
}

#[test]
fn flags_are_those_of_the_kernel() {
    let flags = json!([
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC"
    ]);
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags});
    assert_eq!(filter(profile).flags, 7);
}

/// Lists what container engines allow by default: nearly all, but for what administers the
/// machine; some by their arguments.
fn like_that_of_engines() -> Value {
    let kept = "_sysctl acct add_key bpf clone clone3 create_module delete_module finit_module \
        fsconfig fsmount fsopen fspick get_kernel_syms init_module io_uring_enter \
        io_uring_register io_uring_setup iopl ioperm kcmp kexec_file_load kexec_load keyctl \
        lookup_dcookie mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at \
        open_tree perf_event_open personality pivot_root quotactl quotactl_fd query_module reboot \
        request_key setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog \
        umount2 unshare uselib userfaultfd ustat vhangup";
    let allowed: Vec<&str> = names::all()
        .map(|(name, _)| name)
        .filter(|name| !kept.split_whitespace().any(|other| other == *name))
        .collect();
    let mut syscalls = vec![
        json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
    ];
    syscalls.extend([0_u64, 8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(|value| {
        json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]})
    }));
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls})
}

#[test]
fn the_way_to_every_action_is_short() {
    let filter = filter(like_that_of_engines());
    assert!(
        filter.instructions.len() < 160,
        "{}",
        filter.instructions.len()
    );
    let numbers = (0..512).chain([0x4000_0000, 0x4000_0100, 0xffff_fffe, u32::MAX]);
    let worst = numbers
        .map(|number| run(&filter, X86_64, number, [0; 6]).1)
        .max();
    // Two loads and the machine; some 70 intervals by halves; up to five values of an argument.
    assert!(worst < Some(24), "{worst:?}");
    for (name, number) in names::all() {
        let (got, taken) = run(&filter, X86_64, number, [0; 6]);
        if got == ALLOW && !["clone", "personality"].contains(&name) {
            assert!(taken <= 11, "{name}: {taken}");
        }
    }
}

/// What the profile says, without a program.
fn meant(profile: &profile::Profile, number: u32, args: [u64; 6]) -> u32 {
    use profile::{Call, Test};
    let holds = |condition: &profile::Condition| {
        let arg = args[condition.argument as usize];
        match condition.test {
            Test::Equal(value) => arg == value,
            Test::NotEqual(value) => arg != value,
            Test::Less(value) => arg < value,
            Test::LessOrEqual(value) => arg <= value,
            Test::Greater(value) => arg > value,
            Test::GreaterOrEqual(value) => arg >= value,
            Test::Masked { mask, value } => arg & mask == value,
        }
    };
    match profile.calls.get(number as usize) {
        Some(Call::Always(action)) => *action,
        Some(Call::Rules(rules)) => rules
            .iter()
            .find(|rule| rule.conditions.iter().all(holds))
            .map_or(profile.default, |rule| rule.action),
        None => ENOSYS,
    }
}

/// Values that meet and that just miss one another, in both halves.
fn values() -> impl Strategy<Value = u64> {
    let half = prop::sample::select(vec![0_u64, 1, 2, 7, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff]);
    (half.clone(), half).prop_map(|(high, low)| high << 32 | low)
}

fn entries() -> impl Strategy<Value = Value> {
    let ops = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
    let arg = (0..6_u64, values(), values(), prop::sample::select(ops.to_vec())).prop_map(
        |(index, value, two, op)| {
            json!({"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")})
        },
    );
    let names: Vec<&str> = names::all().map(|(name, _)| name).collect();
    let names = prop::collection::vec(prop::sample::select(names), 1..40);
    let action = prop::sample::select(vec!["KILL", "TRAP", "LOG", "ALLOW", "KILL_PROCESS"]);
    (names, action, prop::collection::vec(arg, 1..4)).prop_map(|(names, action, args)| {
        json!({"names": names, "action": format!("SCMP_ACT_{action}"), "args": args})
    })
}

proptest! {
    /// The program does what the profile says, also where jumps are too long for eight bits.
    #[test]
    fn a_program_does_what_its_profile_says(
        conditional in prop::collection::vec(entries(), 0..6),
        plain in prop::collection::vec(prop::sample::select(names::all().map(|(n, _)| n).collect::<Vec<_>>()), 0..60),
        args in prop::collection::vec(prop::array::uniform6(values()), 4),
    ) {
        let mut syscalls = conditional;
        syscalls.push(json!({"names": plain, "action": "SCMP_ACT_LOG"}));
        let document = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls});
        let Ok(filter) = compile(&document) else {
            // Too long; another test looks at that.
            return Ok(());
        };
        let profile = profile::Profile::parse(&document).unwrap();
        for number in 0..names::END as u32 + 2 {
            for args in &args {
                let wanted = if profile.calls.is_empty() { EPERM } else { meant(&profile, number, *args) };
                prop_assert_eq!(verdict(&filter, X86_64, number, *args), wanted, "{}", number);
            }
        }
        prop_assert_eq!(verdict(&filter, I386, 0, [0; 6]), KILL);
    }

    /// Whatever list is allowed, exactly that is allowed.
    #[test]
    fn ranges_cover_what_they_should(allowed in proptest::collection::btree_set(0_u32..120, 0..80)) {
        let all: Vec<&str> = "read write open close stat fstat lstat poll lseek mmap mprotect munmap brk \
            rt_sigaction rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select \
            sched_yield mremap msync mincore madvise shmget shmat shmctl dup dup2 pause nanosleep getitimer \
            alarm setitimer getpid".split_whitespace().collect();
        let names: Vec<&str> = allowed.iter().filter_map(|n| all.get(*n as usize).copied()).collect();
        let filter = filter(json!({"defaultAction": "SCMP_ACT_KILL_PROCESS",
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}));
        for (number, name) in (0..).zip(&all) {
            let got = verdict(&filter, X86_64, number, [0; 6]);
            let newest = names.iter().filter_map(|name| names::number(name)).max();
            let refused = if newest.is_some_and(|newest| number > newest) { ENOSYS } else { 0x8000_0000 };
            prop_assert_eq!(got, if names.contains(name) { ALLOW } else { refused }, "{}", name);
        }
    }
}
