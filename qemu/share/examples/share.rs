//! Serves a directory on a Unix socket, to one client:
//!
//! ```console
//! $ cargo run -p uvm-share --example share -- DIRECTORY SOCKET
//! $ mount -t 9p -o trans=unix,version=9p2000.L,access=user SOCKET /mnt
//! ```

use std::os::unix::net::UnixListener;
use std::path::Path;

use uvm_share::{Access, Share};

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory, socket] = args.as_slice() else {
        eprintln!("usage: share DIRECTORY SOCKET");
        std::process::exit(2);
    };
    let share = Share::open(Path::new(directory), Access::ReadWrite)?;
    let (stream, _) = UnixListener::bind(socket)?.accept()?;
    share.serve(stream)
}
