//! Container ids: names of directories and cgroups.

use crate::error::Failure;
use crate::prot::HResult;

/// Longest id in bytes: what a directory name can be.
const LONGEST: usize = 255;

/// Refuses an id that cannot be the name of a directory, or would lead out of one (3.1).
pub fn check_id(id: &str) -> Result<(), Failure> {
    let why = if id.is_empty() {
        "it is empty"
    } else if id.len() > LONGEST {
        "it is longer than 255 bytes"
    } else if id == "." || id == ".." {
        "it names a directory of its own"
    } else if !id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b))
    {
        "it holds other characters than letters, digits, '_', '+', '-' and '.'"
    } else {
        return Ok(());
    };
    Err(Failure::new(
        HResult::INVALID_ARGUMENT,
        format!("invalid container id: {why}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_file_names() {
        for id in ["a", "A-b_c.d+e", "...", &"x".repeat(255)] {
            assert_eq!(check_id(id), Ok(()), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "a\0b",
            "a b",
            "ü",
            &"x".repeat(256),
        ] {
            let code = check_id(id).unwrap_err().code;
            assert_eq!(code, HResult::INVALID_ARGUMENT, "{id:?}");
        }
    }
}
