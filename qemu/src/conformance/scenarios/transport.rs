//! transport.

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "transport",
    scenarios: SCENARIOS,
    not_run: NOT_RUN,
};

const SCENARIOS: &[(u16, Scenario)] = &[];

const NOT_RUN: &[(&[u16], &str)] = &[(
    &[
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 22, 23,
    ],
    "no scenario yet",
)];
