//! Passes on how the guest is linked. The flags are for the program alone (`GUEST_LINK`, set by
//! `init/guest.sh`): as rustc's own they would be part of every crate's identity.

fn main() {
    println!("cargo::rerun-if-env-changed=GUEST_LINK");
    println!("cargo::rerun-if-changed=build.rs");
    let flags = std::env::var("GUEST_LINK").unwrap_or_default();
    for flag in flags.split_whitespace() {
        println!("cargo::rustc-link-arg-bins={flag}");
    }
}
