//! json.

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "json",
    scenarios: SCENARIOS,
    not_run: NOT_RUN,
};

const SCENARIOS: &[(u16, Scenario)] = &[];

const NOT_RUN: &[(&[u16], &str)] = &[(
    &[
        30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46,
    ],
    "no scenario yet",
)];
