//! Disks, layers, shares and device-mapper targets.

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "storage",
    scenarios: SCENARIOS,
    not_run: NOT_RUN,
};

const SCENARIOS: &[(u16, Scenario)] = &[];

const NOT_RUN: &[(&[u16], &str)] = &[(
    &[
        240, 241, 242, 243, 244, 245, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255, 256, 257,
        258, 259, 260, 261, 262, 263, 277, 278,
    ],
    "no scenario yet",
)];
