//! Serves one QEMU, and echoes what its guest sends to port 1024 of the host.
//!
//! ```text
//! cargo run -p uvm-vsock --example echo -- /tmp/vhost.sock /tmp/vsock
//! qemu-system-x86_64 … -chardev socket,id=vs0,path=/tmp/vhost.sock \\
//!     -device vhost-user-vsock-pci,chardev=vs0     (with shared memory: see the crate's page)
//! guest$ socat - VSOCK-CONNECT:2:1024
//! host$  socat - UNIX-CONNECT:/tmp/vsock           then `CONNECT 22`, for port 22 of the guest
//! ```

use std::io;
use std::os::unix::net::UnixListener;

use uvm_vsock::{host_socket, Device, DeviceConfig, Faults};

const PORT: u32 = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(socket), Some(uds)) = (args.next(), args.next()) else {
        return Err("usage: echo VHOST_SOCKET VSOCK_SOCKET".into());
    };
    let config = DeviceConfig {
        socket: socket.into(),
        uds: uds.into(),
        cid: 3,
        faults: Faults::default(),
    };
    let listener = UnixListener::bind(host_socket(&config.uds, PORT))?;
    let device = Device::start(config)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    // Until QEMU has gone.
    Ok(device.wait()?)
}
