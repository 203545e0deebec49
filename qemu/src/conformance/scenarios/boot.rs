//! boot.

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "boot",
    scenarios: SCENARIOS,
    not_run: NOT_RUN,
};

const SCENARIOS: &[(u16, Scenario)] = &[];

const NOT_RUN: &[(&[u16], &str)] = &[(
    &[
        290, 291, 292, 293, 294, 295, 296, 297, 298, 299, 300, 301, 302, 303, 304, 305, 306, 307,
        308, 309, 310, 311, 312, 313, 314,
    ],
    "no scenario yet",
)];
