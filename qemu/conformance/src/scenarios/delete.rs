//! DeleteContainerState.

use serde_json::json;

use super::{Area, Scenario};
use crate::{codes, refused, same, Checked, Guest, LIMIT, PLACE, TOOLS};

pub const AREA: Area = Area {
    name: "delete",
    scenarios: SCENARIOS,
    not_run: &[],
};

fn is_unknown(vm: &Guest, id: &str) -> Checked {
    refused(vm.properties(id, &[]).map(drop), codes::NOT_FOUND).map(drop)
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (228, |lab| {
        let vm = lab.guest()?;
        let plan = vm.container("echo once");
        let again = plan.clone();
        let container = plan.create()?;
        let id = container.id().to_owned();
        let (bundle, scratch) = (container.bundle(), container.scratch());
        container.init().run()?;
        vm.sh(&format!("test -d {bundle} && test -d {scratch}"))?;
        container.remove()?;
        let left = vm.sh(&format!(
            "ls -d {bundle} {scratch} 2>/dev/null; \
             find /sys/fs/cgroup -type d -name {id}; grep -F /{id}/ /proc/mounts; true"
        ))?;
        same("left behind", "", left.as_str())?;
        is_unknown(&vm, &id)?;
        same("output", "once\n", again.run()?.text())
    }),
    (229, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("true").create()?;
        container.init().run()?;
        let data = format!("{PLACE}/{}", vm.fresh("data"));
        // A share in the bundle and a disk in the scratch directory; the root stays as well.
        let places = [
            format!("{}/mounts/m0", container.bundle()),
            format!("{}/disk", container.scratch()),
        ];
        vm.sh(&format!(
            "mkdir -p {data}/sub; echo precious > {data}/sub/file"
        ))?;
        for place in &places {
            vm.sh(&format!("mkdir -p {place}; mount -o bind {data} {place}"))?;
        }
        vm.delete(container.id())?;
        let kept = vm.sh(&format!(
            "cat {data}/sub/file; cat {}/bin/busybox | wc -c",
            TOOLS
        ))?;
        same("the data", Some("precious"), kept.lines().next())?;
        for place in &places {
            // Unmounted or left: nothing that hides or holds it.
            vm.sh(&format!(
                "umount {place} 2>/dev/null; test ! -e {place}/sub/file"
            ))?;
        }
        vm.sh(&format!("rm -r {data}")).map(drop)
    }),
    (230, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("sleep 600").create()?;
        let process = container.start()?;
        refused(vm.delete(container.id()), codes::INVALID_STATE)?;
        same("what it says", "here", container.sh("echo here")?.as_str())?;
        let (bundle, scratch) = (container.bundle(), container.scratch());
        vm.sh(&format!(
            "test -f {bundle}/config.json && test -d {scratch}/upper"
        ))?;
        vm.shutdown(container.id(), true)?;
        process.collect(Vec::new(), LIMIT)?;
        container.remove()
    }),
    (231, |lab| {
        let vm = lab.guest()?;
        let sandbox = vm.sandbox("true")?.create()?;
        let bundle = sandbox.bundle();
        let plan = vm.workload(sandbox.id(), "true");
        let workload = plan
            .with_mount("/huge", "hugepages://2M/x", &["rbind"])
            .with_mount("/shared", "sandbox://a", &["rbind"])
            .create()?;
        vm.sh(&format!("mount -t tmpfs tmpfs {bundle}/sandboxMounts/a"))?;
        sandbox.init().run()?;
        sandbox.remove()?;
        let left = vm.sh(&format!(
            "ls -d {bundle}; grep -F {bundle}/ /proc/mounts; true"
        ))?;
        same("left of the sandbox", "", left.as_str())?;
        // The host does it in the other order; this one must not hurt either.
        workload.init().run()?;
        workload.remove()
    }),
    (232, |lab| {
        let vm = lab.guest()?;
        let plan = vm.container("true");
        let (id, mut document) = (plan.id().to_owned(), plan.document());
        document["ScratchDirPath"] = json!("");
        let mounted = plan.mount()?;
        vm.create_document(&id, &document)?;
        let container = mounted.created();
        let scratch = container.scratch();
        container.init().run()?;
        container.remove()?;
        vm.sh(&format!("test -d {scratch}/upper && rm -r {scratch}"))
            .map(drop)
    }),
    (233, |lab| {
        let vm = lab.guest()?;
        let container = vm.container("true").create()?;
        vm.delete(container.id())?;
        vm.sh(&format!("test ! -e {}", container.bundle()))?;
        refused(vm.delete(container.id()), codes::NOT_FOUND)?;
        is_unknown(&vm, container.id())
    }),
];
