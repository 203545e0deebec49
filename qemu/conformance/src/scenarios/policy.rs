//! Security policies and their fragments.

use serde_json::json;

use super::{Area, Scenario};
use crate::{codes, refused, same};

pub const AREA: Area = Area {
    name: "policy",
    scenarios: SCENARIOS,
    not_run: &[],
};

const SCENARIOS: &[(u16, Scenario)] = &[
    (275, |lab| {
        for settings in [json!({}), json!({"EncodedUVMReference": "cmVmZXJlbmNl"})] {
            let vm = lab.boot(|boot| boot.negotiate = false)?;
            vm.negotiate()?;
            vm.modify("SecurityPolicy", "Add", settings.clone())?;
            refused(vm.modify("SecurityPolicy", "Add", settings), codes::FAIL)?;
            same("a shell in the VM", "ok".to_owned(), vm.sh("echo ok")?)?;
        }
        Ok(())
    }),
    (276, |lab| {
        let vm = lab.boot(|boot| boot.negotiate = false)?;
        vm.negotiate()?;
        // `{"allow_all": false}`, for an enforcer that this guest may not have.
        let policy = "eyJhbGxvd19hbGwiOiBmYWxzZX0=";
        for enforcer in ["no-such-enforcer", "rego"] {
            let settings = json!({"EnforcerType": enforcer, "EncodedSecurityPolicy": policy});
            refused(vm.modify("SecurityPolicy", "Add", settings), codes::FAIL)?;
        }
        let fragment = json!({"Fragment": policy});
        refused(
            vm.modify("SecurityPolicyFragment", "Add", fragment),
            codes::FAIL,
        )?;
        // A refused one does not count.
        Ok(vm.security_policy_empty()?)
    }),
];
