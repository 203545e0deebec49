//! A tar stream as entries: header, the GNU and PAX records that speak of it, contents.
//!
//! Not by the `tar` crate: it splits PAX records at line breaks, and the value of a capability may
//! hold one; it knows no PAX sparse file, no negative time and no empty number. The measure is what
//! Go's `archive/tar` accepts, which Docker, containerd, skopeo and umoci read layers with.

mod entries;
mod header;
mod pax;
mod sparse;

pub use entries::{Entries, Entry, Kind};
pub use sparse::{Extent, Map};

const BLOCK: usize = 512;
