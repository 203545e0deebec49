//! What is mounted on the initramfs, which cannot be pivoted away.

/// The mount points right below the initramfs, last mounted first; `None` when the root is
/// something else (proc_pid_mountinfo(5)).
pub fn initramfs_children(mountinfo: &str) -> Option<Vec<String>> {
    let mut lines = mountinfo.lines().map(|line| {
        let mut fields = line.split(' ');
        let id = fields.next()?;
        let parent = fields.next()?;
        let point = fields.nth(2)?;
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        Some((id, parent, point, kind))
    });
    let root = lines
        .clone()
        .flatten()
        .find(|(_, _, point, kind)| *point == "/" && *kind == "rootfs")?
        .0;
    let mut children: Vec<String> = lines
        .by_ref()
        .flatten()
        .filter(|(id, parent, ..)| *parent == root && *id != root)
        .map(|(_, _, point, _)| unescape(point))
        .collect();
    // Something covers it already: then "/" is that, and can be pivoted.
    if children.iter().any(|point| point == "/") {
        return None;
    }
    children.reverse();
    Some(children)
}

/// Undoes `\040` and the like.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(value) => {
                out.push(value);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_uncovered_initramfs_has_to_be_covered() {
        let initramfs = "1 1 0:2 / / rw - rootfs rootfs rw\n\
                         20 1 0:20 / /proc rw - proc proc rw\n\
                         21 1 0:21 / /run rw - tmpfs tmpfs rw\n\
                         22 21 0:22 / /run/a\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(
            initramfs_children(initramfs),
            Some(vec!["/run".to_owned(), "/proc".to_owned()])
        );
        assert_eq!(
            initramfs_children(
                "1 1 0:2 / / rw - rootfs rootfs rw\n30 1 8:1 / / rw - ext4 sda rw\n"
            ),
            None
        );
        assert_eq!(initramfs_children("30 1 8:1 / / rw - ext4 sda rw\n"), None);
    }

    #[test]
    fn blanks_in_mount_points_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/a\\04"), "/a\\04");
    }
}
