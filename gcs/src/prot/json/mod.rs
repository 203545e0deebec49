//! JSON as the host's peers read it: Go's rules, not serde's (protocol section 2).
//!
//! ```text
//! bytes → check (one scan, no recursion, no allocation) → Cursor → Decode for T
//! ```
//!
//! The scan checks syntax, nesting (at most [`MAX_DEPTH`]) and trailing bytes. After it the cursor
//! cannot fail, and only a value can have the wrong type. The *first* such error is kept and
//! decoding goes on, so that `ActivityId` is known even when another member is wrong (P-036).
//! Recursion follows the message types, never the depth of the payload.
//!
//! Member names match in upper and lower case. The last duplicate wins. `null` changes nothing.
//! Unknown members are skipped unread. No error text quotes a payload.

mod check;
mod cursor;
mod decode;
mod nested;
mod wire;

pub use check::{Syntax, MAX_DEPTH};
pub use cursor::{Cursor, JsonKind};
pub use decode::Decode;
pub use nested::Nested;
pub use wire::same_name;
pub(crate) use wire::{names, wire};

/// Why a document was refused. It says where and what was expected, never what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("not valid JSON: {0}")]
    Syntax(#[from] Syntax),
    #[error(transparent)]
    Type(#[from] TypeError),
}

/// A value of another type or size than its member has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("member {member}: {wanted} is wanted, not {found}")]
pub struct TypeError {
    /// The protocol's name of the innermost known member around the value.
    pub member: &'static str,
    pub wanted: &'static str,
    pub found: &'static str,
}

/// Reads one document.
///
/// # Errors
/// Broken syntax, or the first value of the wrong type.
pub fn from_slice<T: Decode + Default>(text: &[u8]) -> Result<T, JsonError> {
    let (value, error) = read(text)?;
    match error {
        Some(error) => Err(error.into()),
        None => Ok(value),
    }
}

/// Reads one document as far as its types allow. Returns every member of the right type, and the
/// first type error.
///
/// # Errors
/// The syntax is broken, so nothing is known.
pub fn read<T: Decode + Default>(text: &[u8]) -> Result<(T, Option<TypeError>), Syntax> {
    let mut cursor = Cursor::open(text)?;
    let mut value = T::default();
    value.decode(&mut cursor);
    Ok((value, cursor.into_error()))
}

/// For `skip_serializing_if`: Go's `omitempty`.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
