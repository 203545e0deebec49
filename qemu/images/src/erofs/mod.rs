//! EROFS, the read-only file system of layer disks: uncompressed, blocks of 4096 bytes, one device.
//!
//! Why EROFS and why by ourselves: the guest's kernel mounts it, any name and any attribute of Linux
//! fits, and a disk can be written in one pass over a layer's tar, contents straight to their place.
//! `mkfs.erofs` of Debian 12 (1.5) reads a directory only, which without root has wrong owners and no
//! device nodes; `--tar` came with 1.7. Writing ext4 needs block groups, bitmaps and extent trees.
//!
//! ```text
//! block 0   superblock, at byte 1024
//! block 1   the root's inode (its number has 16 bits, so it has to be in front)
//! ...       contents and inodes in the order in which they came; blocks of contents are aligned,
//!           a file's last piece is beside its inode when there is room
//! the end   directories, which are known when all else is
//! ```
//!
//! An inode's number is its place in units of 32 bytes. Source: the kernel's `fs/erofs/erofs_fs.h`
//! and Documentation/filesystems/erofs.rst.

mod directory;
mod format;
mod reader;
mod writer;
mod xattr;

pub use directory::Name;
pub use format::{FileType, Nid};
pub use reader::{Disk, Inode};
pub use writer::{Reserved, WriteError, Writer};
pub use xattr::{check, storable};
