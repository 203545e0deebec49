//! The container that guest, floor and peer make.

use serde_json::Value;
use uvm_images::ImageConfig;

/// The floor program in the container's root.
pub const PROGRAM: &str = "/bin/floor";
/// The same root for the floor and the peer.
pub const ROOT: &str = "/run/bench/root";

/// What a host sends for the floor program with these words; the root is at `root`.
pub fn spec(root: &str, args: &[&str]) -> Value {
    let args = [PROGRAM].iter().chain(args).map(|arg| (*arg).to_owned());
    let process = uvm_images::Process {
        args: Some(args.collect()),
        ..uvm_images::Process::default()
    };
    uvm_images::standalone(&ImageConfig::default(), &process, root)
}
