//! The guest's log in a real VM: whose request each line is about, also when a child or the
//! container engine wrote it; what a host that does not read, or takes no connection, costs;
//! messages of the kernel.

mod common;

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use uvm::{BootOptions, Uvm};
use uvm_host::log::{Level, Record};
use uvm_host::wire::Rpc;
use uvm_host::{LogSink, LOG_PORT};
use uvm_vsock::{Direction, Fault, Faults};

use common::image::Image;
use common::LONG;

const TRACE: &str = "0123456789abcdef0123456789abcdef";
const SPAN: &str = "00000000000000a1";

/// Sends a request with a place in a trace, has it answered, and returns its number.
fn traced(vm: &Uvm, rpc: Rpc, id: &str, mut body: Value) -> u64 {
    body["ocsc"] = json!({"TraceID": TRACE, "SpanID": SPAN});
    let mut pending = vm.send(rpc, id, body).unwrap();
    let number = pending.id();
    pending.raw(LONG).unwrap();
    number
}

/// All records about a request, once its last one is there.
fn about(vm: &Uvm, number: u64) -> Vec<Record> {
    let of = |record: &Record| record.fields.get("message-id") == Some(&number.into());
    let ended = |r: &Record| of(r) && r.fields.get("span") == Some(&"request".into());
    vm.wait_log(LONG, ended).unwrap();
    vm.log_records().into_iter().filter(of).collect()
}

fn said<'r>(records: &'r [Record], text: &str) -> &'r Record {
    let found = records.iter().find(|record| record.message.contains(text));
    found.unwrap_or_else(|| panic!("nothing says {text:?}: {records:#?}"))
}

#[test]
fn lines_of_tasks_and_of_the_engine_name_the_request_they_were_made_for() {
    let (Some(image), Some(vm)) = (Image::open(), common::boot()) else {
        return;
    };
    let container = image.mount(&vm, "named");
    let mut spec = image.spec("named", &["true"]);
    // Said by the task that prepares the bundle, and by the engine's helper, which then fails.
    spec["process"]["cwd"] = "/bin/busybox/below".into();
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}]});
    let config = json!({
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciBundlePath": uvm::container::bundle("named"),
        "OciSpecification": spec,
        "ScratchDirPath": "/run/mounts/scsi/m0/scratch/named"});
    let body = json!({"ContainerConfig": config.to_string()});
    let number = traced(&vm, Rpc::Create, "named", body);
    // Lines of children come by the kernel's log, perhaps after the answer.
    let by_child = |r: &Record| r.message.contains("no_such_call");
    vm.wait_log(LONG, by_child).unwrap();
    let records = about(&vm, number);
    for record in &records {
        for (name, value) in [
            ("message-type", "ComputeSystemCreateV1"),
            ("cid", "named"),
            ("traceID", TRACE),
            ("spanID", SPAN),
            ("activityID", uvm_host::UVM_ID),
        ] {
            assert_eq!(record.fields.get(name), Some(&value.into()), "{record}");
        }
    }
    let task = said(&records, "make working directory");
    let engine = said(&records, "no_such_call");
    assert_eq!((task.level, engine.level), (Level::Debug, Level::Debug));
    let pids: Vec<&Value> = records
        .iter()
        .filter(|record| record.fields.get("span") == Some(&"task".into()))
        .map(|record| &record.fields["pid"])
        .collect();
    for record in [task, engine] {
        assert!(pids.contains(&&record.fields["pid"]), "{record}: {pids:?}");
        assert!(record.fields.contains_key("kmsg"));
    }
    drop(container);
}

#[test]
fn messages_of_the_kernel_are_records_whatever_is_in_them() {
    let Some(mut profile) = common::profile() else {
        return;
    };
    for (flags, seen) in [("", [true, false]), ("-kmsgLogLevel 5", [true, true])] {
        profile.service_flags = vec![flags.to_owned()];
        let vm = common::boot_profile(profile.clone());
        // The strict host takes nothing that is no record.
        let script = "printf '<4>four \\001\\033[31m \\377 {\"\\\\x41\" end' > /dev/kmsg; \
                      echo '<5>five' > /dev/kmsg; printf '<3>\\000' > /dev/kmsg; \
                      echo '<3>gcs[1]: {\"msg\":' > /dev/kmsg; echo '<0>last' > /dev/kmsg";
        assert_eq!(
            vm.external(&["/bin/sh", "-c", script]).run().unwrap().code,
            0
        );
        vm.wait_log(LONG, |record| record.message == "last")
            .unwrap();
        let records = vm.log_records();
        let is_there = |text: &str| records.iter().any(|record| record.message.contains(text));
        assert_eq!([is_there("four"), is_there("five")], seen, "{flags:?}");
        let odd = said(&records, "four");
        assert!(odd.message.contains("\u{1}\u{1b}[31m"), "{odd}");
        assert!(odd.message.ends_with("{\"\\x41\" end"), "{odd}");
        assert_eq!(odd.level, Level::Warning);
        assert_eq!(vm.tolerated(), Vec::<String>::new());
    }
}

/// A host that stops reading the log while the gate is shut.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn shut(&self, shut: bool) {
        *self.0 .0.lock().unwrap() = shut;
        self.0 .1.notify_all();
    }

    fn sink(&self) -> LogSink {
        let gate = self.clone();
        Box::new(move |_| {
            let mut shut = gate.0 .0.lock().unwrap();
            while *shut {
                shut = gate.0 .1.wait(shut).unwrap();
            }
        })
    }
}

#[test]
fn a_host_that_does_not_read_the_log_has_its_requests_answered_all_the_same() {
    const REQUESTS: usize = 1500;
    let Some(mut profile) = common::profile() else {
        return;
    };
    profile.guest_log_level = "trace".into();
    let gate = Gate::default();
    let options = BootOptions {
        log_sink: Some(gate.sink()),
        ..BootOptions::default()
    };
    let vm = Uvm::boot_with(profile, options).unwrap();
    // The name makes each line long: together they are far more than what is kept for a reader.
    let id = "x".repeat(120);
    let median = || {
        let mut times: Vec<Duration> = (0..REQUESTS)
            .map(|_| {
                let begun = Instant::now();
                let pending = vm.send(Rpc::GetProperties, &id, json!({"Query": "{}"}));
                let answer = pending.unwrap().raw(LONG).unwrap();
                assert_eq!(answer["Result"], 0xc037_010e_u32.cast_signed());
                begun.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[REQUESTS / 2]
    };
    let read = median();
    gate.shut(true);
    let stalled = median();
    gate.shut(false);
    println!("a round trip: {read:?} with a reader of the log, {stalled:?} without");
    // It has less to do, in truth. Waiting for the log would take for ever.
    assert!(
        stalled < 3 * read + Duration::from_millis(5),
        "{stalled:?} against {read:?}"
    );
    // What was lost is counted, after what was not.
    let counted = |record: &Record| record.fields.get("dropped").is_some();
    let told = vm.wait_log(LONG, counted).unwrap();
    assert!(told.fields["dropped"].as_u64() > Some(0), "{told}");
    assert!(vm.external(&["/bin/true"]).run().unwrap().code == 0);
}

/// What the guest writes on one more connection of the log, until that ends.
fn next_connection(vm: &Uvm) -> std::sync::mpsc::Receiver<String> {
    let (tell, told) = std::sync::mpsc::channel();
    vm.on_dial(LOG_PORT, move |mut stream| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).ok();
            tell.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
        });
    })
    .unwrap();
    told
}

#[test]
fn a_log_that_is_reset_again_and_again_is_dialled_again_and_nothing_is_told_twice() {
    let Some(profile) = common::profile() else {
        return;
    };
    let fault = Fault::Reset {
        direction: Direction::GuestToHost,
        bytes: 30_000,
    };
    let options = BootOptions {
        faults: Faults::default().on_port(LOG_PORT, fault),
        ..BootOptions::default()
    };
    let vm = Uvm::boot_with(profile, options).unwrap();
    // The first one is read by the host itself.
    let mut connections = Vec::new();
    for _ in 0..3 {
        let told = next_connection(&vm);
        let text = loop {
            vm.send(Rpc::GetProperties, "nobody", json!({"Query": "{}"}))
                .unwrap()
                .raw(LONG)
                .unwrap();
            if let Ok(text) = told.try_recv() {
                break text;
            }
        };
        connections.push(text);
    }
    let mut ended = BTreeSet::new();
    let mut ends = |record: &Value| {
        if record["span"] == "request" {
            let number = record["message-id"].as_u64().unwrap();
            assert!(ended.insert(number), "{number} is told twice");
        }
    };
    for record in vm.log_records() {
        ends(&Value::Object(record.fields));
    }
    for text in &connections {
        // The last one is cut by the reset.
        let (whole, _) = text.rsplit_once('\n').unwrap();
        let records: Vec<Value> = whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect();
        assert!(records
            .iter()
            .any(|r| r["msg"] == "the log connection is lost"));
        records.iter().for_each(&mut ends);
    }
}

#[test]
fn a_host_that_takes_no_log_has_a_vm_all_the_same() {
    let Some(profile) = common::profile() else {
        return;
    };
    let options = BootOptions {
        faults: Faults::default().on_port(LOG_PORT, Fault::Refuse),
        ..BootOptions::default()
    };
    let vm = Uvm::boot_with(profile, options).unwrap();
    let script =
        "until dmesg | grep -q 'the log waits'; do :; done; dmesg | grep -c 'service starts'";
    let out = vm.external(&["/bin/sh", "-c", script]).run().unwrap();
    assert_eq!(out.text(), "1\n");
    assert!(vm.dump_stacks().unwrap().contains("service starts"));
}
