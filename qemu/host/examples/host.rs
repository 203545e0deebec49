//! The host of a VM that something else starts: gives the guest its entropy, prints its log, negotiates,
//! runs a command in the VM, and has it power off.
//!
//! ```text
//! cargo run -p uvm-host --example host -- /tmp/vsock /bin/gcs -version &
//! … start a VM whose vsock ports are /tmp/vsock_PORT: uvm-vsock, or Firecracker …
//! ```

use std::time::Duration;

use uvm_host::{Host, HostConfig, Transport};

/// A real host gives its guest two minutes to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let Some(base) = args.next() else {
        return Err("usage: host VSOCK_SOCKET COMMAND [ARGUMENT]...".into());
    };
    let command: Vec<String> = args.collect();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();

    let host = Host::listen(HostConfig {
        log_sink: Some(Box::new(|record| {
            eprintln!("{}: {}", record.level.name(), record.message);
        })),
        ..HostConfig::new(Transport::Unix(base.into()))
    })?;
    let connected = host.wait_connected(BOOT_LIMIT)?;
    eprintln!("the guest opened the bridge after {:?}", connected.bridge);
    host.negotiate()?;
    host.security_policy_empty()?;
    let out = host.external(&command).run()?;
    print!("{}", out.text());
    eprint!("{}", out.error_text());
    host.shutdown_uvm()?;
    eprintln!("exit code {}", out.code);
    Ok(())
}
