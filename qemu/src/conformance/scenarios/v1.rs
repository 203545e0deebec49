//! The V1 schema.

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "v1",
    scenarios: SCENARIOS,
    not_run: NOT_RUN,
};

const SCENARIOS: &[(u16, Scenario)] = &[];

const NOT_RUN: &[(&[u16], &str)] = &[(&[330, 331, 332, 333, 334], "no scenario yet")];
