//! The scenarios, one file an area.

mod boot;
mod boot_lines;
mod create;
mod delete;
mod errors;
mod json;
mod kinds;
mod names;
mod negotiate;
mod network;
mod nics;
mod pods;
mod policy;
mod process;
mod properties;
mod reconnect;
mod resources;
mod service;
mod spec;
mod storage;
mod transport;
mod user;
mod v1;
mod wait;

use super::{Area, Scenario};

pub const AREAS: &[Area] = &[
    transport::AREA,
    reconnect::AREA,
    json::AREA,
    errors::AREA,
    negotiate::AREA,
    create::AREA,
    kinds::AREA,
    spec::AREA,
    user::AREA,
    process::AREA,
    wait::AREA,
    properties::AREA,
    delete::AREA,
    storage::AREA,
    names::AREA,
    network::AREA,
    policy::AREA,
    boot::AREA,
    boot_lines::AREA,
    pods::AREA,
    resources::AREA,
    service::AREA,
    v1::AREA,
];
