//! Disks, layers, shares and device-mapper targets.

mod disks;
mod layers;
pub(super) mod mapped;
pub(super) mod plugged;
pub(super) mod shares;

use super::{Area, Scenario};

pub const AREA: Area = Area {
    name: "storage",
    scenarios: SCENARIOS,
    not_run: &[(
        &[245],
        "only Hyper-V has the VMBus directory of a SCSI controller",
    )],
};

const SCENARIOS: &[(u16, Scenario)] = &[
    (240, disks::request_types),
    (241, disks::resource_types),
    (242, disks::ids),
    (243, disks::read_only),
    (244, disks::arrival),
    (246, disks::controllers),
    (247, disks::partitions),
    (248, disks::formatting),
    (249, disks::an_xfs_stays),
    (250, disks::nothing_known),
    (251, disks::twice),
    (252, disks::removal),
    (253, mapped::removal_by_record),
    (254, disks::options),
    (255, disks::scsi_device),
    (256, shares::mount),
    (257, mapped::pmem),
    (258, mapped::linear),
    (259, mapped::verity),
    (260, layers::order),
    (261, layers::scratch),
    (262, layers::removal),
    (263, layers::failure),
    (277, mapped::pci),
    (278, mapped::crypt),
];
