//! The bridge is lost and found again.

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "reconnect",
    scenarios: SCENARIOS,
    not_run: NOT_RUN,
};

const SCENARIOS: &[(u16, Scenario)] = &[];

const NOT_RUN: &[(&[u16], &str)] = &[(&[18, 19, 20, 21], "no scenario yet")];
