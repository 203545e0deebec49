//! A directory, or one file of it, served over 9P2000.L to a guest that nobody trusts.
//!
//! ```text
//! frame ── wire ── request (typed) ── server ── fid ── a descriptor ── system calls relative to it
//! ```
//!
//! Each fid is a descriptor, and every name that a client sends is one component, resolved below
//! that descriptor by `openat2` with RESOLVE_BENEATH and without symbolic links. So there is no
//! path that could lead outside, whatever is renamed or linked meanwhile. A file that was unlinked
//! stays usable as long as somebody has it open. Device nodes can be made, as on a bind mount, and
//! are never opened.
//!
//! Root's server answers each user of the guest with the rights of the user of that number.
//! Anybody else's cannot become other users, so it answers all of them with its own rights.
//!
//! Two published crates were looked at. `p9` has no symbolic links, extended attributes, locks or
//! users, and opens `..` as any name. `rs9p` is a frame for file systems on an asynchronous runtime.

mod attributes;
mod directory;
mod fid;
mod locks;
mod request;
mod server;
mod share;
mod user;
mod wire;
mod xattrs;

pub use server::Access;
pub use share::Share;
