//! Paths of entries: from strangers, so they are taken apart here and never given to this machine.

use crate::meta::Why;

/// What Linux and the file systems allow for one name.
const NAME_MAX: usize = 255;
/// The longest path that a program can give to Linux.
const PATH_MAX: usize = 4095;

/// The names of `path`, as Docker cleans it: `.`, empty names and a leading `/` mean nothing, `..`
/// takes the name before it back and stays within the root.
pub fn names(path: &[u8]) -> Result<Vec<&[u8]>, Why> {
    if path.len() > PATH_MAX {
        let length = path.len();
        return Err(format!(
            "has a path of {length} bytes; Linux has {PATH_MAX} at most"
        ));
    }
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            _ if name.len() > NAME_MAX => {
                let length = name.len();
                return Err(format!(
                    "has a name of {length} bytes; {NAME_MAX} are possible"
                ));
            }
            _ if name.contains(&0) => return Err("has a NUL in its name".into()),
            _ => names.push(name),
        }
    }
    Ok(names)
}

/// For a message: bytes that are no text, or that a terminal would act on, are escaped.
pub fn shown(path: &[u8]) -> String {
    const LONG: usize = 200;
    let text = String::from_utf8_lossy(path);
    let start: String = text.chars().take(LONG).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_within_the_root() {
        let cases: [(&str, &[&str]); 10] = [
            ("a/b", &["a", "b"]),
            ("/a//b/", &["a", "b"]),
            ("./a/./b", &["a", "b"]),
            ("a/../b", &["b"]),
            ("a/../../b", &["b"]),
            ("../../etc/passwd", &["etc", "passwd"]),
            ("..", &[]),
            ("/", &[]),
            ("", &[]),
            ("a/...", &["a", "..."]),
        ];
        for (path, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|name| name.as_bytes()).collect();
            assert_eq!(names(path.as_bytes()).unwrap(), expected, "{path}");
        }
        assert!(names(&[b'n'; 256]).unwrap_err().contains("256 bytes"));
        assert!(names(&b"a/".repeat(100_000))
            .unwrap_err()
            .contains("200000 bytes"));
        assert!(names(b"a\0b").unwrap_err().contains("NUL"));
    }
}
