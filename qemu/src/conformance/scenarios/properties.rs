//! Properties, stacks and limits of containers.

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "properties",
    scenarios: SCENARIOS,
    not_run: NOT_RUN,
};

const SCENARIOS: &[(u16, Scenario)] = &[];

const NOT_RUN: &[(&[u16], &str)] = &[(
    &[220, 221, 222, 223, 224, 225, 226, 227, 274],
    "no scenario yet",
)];
