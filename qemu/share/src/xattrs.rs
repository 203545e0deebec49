//! Extended attributes: a value is read and written as a fid.

use std::ffi::{CStr, CString};

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;

use crate::fid::{NewXattr, Node};

/// Most bytes of a value or a list (`XATTR_SIZE_MAX`).
const MOST: usize = 64 << 10;

/// What a container may have on files of its own. The others (`trusted.`, labels) are this
/// machine's.
const SERVED: [&[u8]; 3] = [b"user.", b"security.capability", b"system.posix_acl_"];

fn serve(name: &CStr) -> Result<(), Errno> {
    match SERVED
        .iter()
        .any(|prefix| name.to_bytes().starts_with(prefix))
    {
        true => Ok(()),
        false => Err(Errno::OPNOTSUPP),
    }
}

/// The value of this name, or with an empty one all names, each with a zero byte after it.
pub(crate) fn read(node: &Node, name: &CStr) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; MOST];
    let length = if name.is_empty() {
        fs::listxattr(node.path(), &mut value)?
    } else {
        serve(name)?;
        fs::getxattr(node.path(), name, &mut value)?
    };
    value.truncate(length);
    if name.is_empty() {
        let names = value.split_inclusive(|byte| *byte == 0);
        let served = |name: &&[u8]| SERVED.iter().any(|prefix| name.starts_with(prefix));
        value = names.filter(served).flatten().copied().collect();
    }
    Ok(value)
}

/// Begins one. A size of 0 bytes removes the attribute.
pub(crate) fn begin(node: Node, name: CString, size: u64, flags: u32) -> Result<NewXattr, Errno> {
    node.changeable()?;
    serve(&name)?;
    let size = usize::try_from(size).ok().filter(|size| *size <= MOST);
    Ok(NewXattr {
        node,
        name,
        size: size.ok_or(Errno::TOOBIG)?,
        flags,
        value: Vec::new(),
    })
}

/// Sets it.
pub(crate) fn finish(new: &NewXattr) -> Result<(), Errno> {
    let path = new.node.path();
    if new.size == 0 {
        return fs::removexattr(path, new.name.as_c_str());
    }
    if new.value.len() != new.size {
        return Err(Errno::INVAL);
    }
    let flags = XattrFlags::from_bits(new.flags).ok_or(Errno::INVAL)?;
    fs::setxattr(path, new.name.as_c_str(), &new.value, flags)
}
