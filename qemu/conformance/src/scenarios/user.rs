//! User names of a process, and the files they are looked up in.

use serde_json::json;

use super::{Area, Scenario};
use crate::{codes, refused, same, Checked, Guest, Plan, PLACE};
use uvm_host::HostError;

pub const AREA: Area = Area {
    name: "user",
    scenarios: SCENARIOS,
    not_run: &[],
};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\\napp:x:1000:1001::/:\\n\
                      twin:x:7:7::/:\\ntwin:x:8:8::/:\\n";
const GROUP: &str = "root:x:0:\\nstaff:x:20:app\\n";

/// Runs `id` as this user of a root file system whose user files are made by `files`.
fn ids(vm: &Guest, user: &str, files: &str) -> Checked<Result<String, HostError>> {
    // The forms of protocol 5.9; a standalone container need not look names up.
    let sandbox = vm.sandbox("echo $(id -u):$(id -g)")?;
    let plan: Plan<'_> = sandbox.edit(|spec| {
        spec["process"]["user"] = json!({"uid": 77, "gid": 78, "username": user});
    });
    let mounted = plan.mount()?;
    let root = uvm::container::root(mounted.plan().id());
    vm.sh(&format!(
        "mkdir -p {root}/etc; cd {root}/etc; rm -f passwd group; {files}"
    ))?;
    let container = match mounted.create() {
        Ok(container) => container,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let out = container.init().run()?;
    container.remove()?;
    Ok(Ok(out.text().trim().to_owned()))
}

fn usual() -> String {
    format!("printf '{PASSWD}' > passwd; printf '{GROUP}' > group")
}

const SCENARIOS: &[(u16, Scenario)] = &[
    (123, |lab| {
        let vm = lab.guest()?;
        for (user, expected) in [
            ("app", "1000:1001"),
            ("1000", "1000:1001"),
            ("app:staff", "1000:20"),
            ("3:4", "3:4"),
            ("3:staff", "3:20"),
            ("app:5", "1000:5"),
        ] {
            same(user, expected.to_owned(), ids(&vm, user, &usual())??)?;
        }
        Ok(())
    }),
    (124, |lab| {
        let vm = lab.guest()?;
        for user in [
            "nobody-here",
            "twin",
            "app:no-group",
            "a:b:c",
            "4294967296",
            "-1",
        ] {
            refused(ids(&vm, user, &usual())?, codes::FAIL)?;
        }
        Ok(())
    }),
    (125, |lab| {
        let vm = lab.guest()?;
        same("4000", "4000:0".to_owned(), ids(&vm, "4000", &usual())??)
    }),
    (126, |lab| {
        let vm = lab.guest()?;
        let outside = format!("{PLACE}/{}", vm.fresh("passwd"));
        vm.sh(&format!("mkdir -p {PLACE}; printf '{PASSWD}' > {outside}"))?;
        let link = format!("ln -s {outside} passwd");
        refused(ids(&vm, "app", &link)?, codes::FAIL)?;
        // A link that stays inside is followed.
        let inside = format!("printf '{PASSWD}' > real; ln -s /etc/real passwd");
        same("app", "1000:1001".to_owned(), ids(&vm, "app", &inside)??)?;
        vm.sh(&format!("rm {outside}")).map(drop)
    }),
];
