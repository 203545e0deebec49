//! Network namespaces, adapters and the files that name them; policies.

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "network",
    scenarios: SCENARIOS,
    not_run: NOT_RUN,
};

const SCENARIOS: &[(u16, Scenario)] = &[];

const NOT_RUN: &[(&[u16], &str)] = &[(
    &[
        102, 103, 104, 105, 106, 107, 134, 264, 265, 266, 267, 268, 269, 270, 271, 272, 273, 275,
        276, 279,
    ],
    "no scenario yet",
)];
