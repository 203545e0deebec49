//! The container engine: from an OCI spec to processes.

pub mod devices;
pub mod seccomp;
