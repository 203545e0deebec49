//! What a hostile container does to the VM and to the host, and what must go on nevertheless.

mod common;

use std::sync::mpsc;

use common::LONG;

/// Processes without end, none of which does anything.
#[test]
fn a_container_full_of_processes_can_be_killed() {
    let Some(vm) = common::guest_with(|profile| {
        // Fewer than the memory holds, so that memory is not what ends it.
        let most = "sysctl.kernel.threads-max=900";
        profile.kernel_options.push(most.into());
    }) else {
        return;
    };
    let vm = &*vm;
    let bomb = vm.container("sleep 100000").create().unwrap();
    let init = bomb.start().unwrap();
    let neighbour = vm.container("cat").create().unwrap();
    let cat = neighbour.init().open_stdin().start().unwrap();
    // It ends when it can start no more.
    let script = "mkfifo /tmp/p; while :; do (read x < /tmp/p) & done";
    let full = bomb.exec(script).start().unwrap();
    let out = full.collect(Vec::new(), 4 * LONG).unwrap();
    assert!(
        out.error_text().contains("fork"),
        "{} {}",
        out.code,
        out.error_text()
    );

    // The VM works, and so does the neighbour that is there.
    let count = vm.sh("ls -d /proc/[0-9]* | wc -l").unwrap();
    assert!(count.trim().parse::<u32>().unwrap() > 600, "{count}");
    vm.shutdown(bomb.id(), true).unwrap();
    assert_eq!(bomb.end(init).err(), None);
    let out = cat.collect(b"alive\n".to_vec(), LONG).unwrap();
    assert_eq!(out.text(), "alive\n");
    neighbour.remove().unwrap();
    common::leaves_nothing(vm);
}

/// The host's ports are for the guest: a container must neither be served there nor serve.
#[test]
fn a_container_has_no_vsock() {
    const PORT: u32 = 0x5005_0000;
    for (option, dials) in [("quiet", false), ("vsock.namespaces=1", true)] {
        let Some(vm) = common::guest_with(|profile| profile.kernel_options.push(option.into()))
        else {
            return;
        };
        let (send, dialled) = mpsc::channel();
        vm.on_dial(PORT, move |_| send.send(()).unwrap()).unwrap();
        // The guest's own program dials for standard output, and says why it cannot.
        let script = format!("UVM_ALLOW_VSOCK=1 /vsockexec -o {PORT} /bin/true; true");
        let container = vm
            .container(&script)
            .with_mount("/vsockexec", "/init", &["bind", "ro"]);
        let out = container.run().unwrap();
        assert_eq!(dialled.try_recv().is_ok(), dials, "{}", out.error_text());
        if !dials {
            let why = out.error_text();
            assert!(why.contains("Address family not supported"), "{why}");
        }
    }
}
