//! DeleteContainerState.

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "delete",
    scenarios: SCENARIOS,
    not_run: NOT_RUN,
};

const SCENARIOS: &[(u16, Scenario)] = &[];

const NOT_RUN: &[(&[u16], &str)] = &[(&[228, 229, 230, 231, 232, 233], "no scenario yet")];
