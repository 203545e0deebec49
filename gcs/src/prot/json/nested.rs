//! A JSON document inside a JSON string: `ContainerConfig`, `ProcessParameters`, `Query`,
//! `Properties`.

use std::ops::{Deref, DerefMut};

use serde::{de, ser, Deserialize, Deserializer, Serialize, Serializer};

use super::{Cursor, Decode, JsonKind, TypeError};

/// A document that travels as the text of a string member.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Nested<T> {
    document: T,
    /// False when the member was absent, null or "".
    present: bool,
}

impl<T> Nested<T> {
    pub fn new(document: T) -> Self {
        Self {
            document,
            present: true,
        }
    }

    /// Whether there was a document at all; else this holds its default.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.present
    }

    pub fn into_inner(self) -> T {
        self.document
    }
}

impl<T> Deref for Nested<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.document
    }
}

impl<T> DerefMut for Nested<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.document
    }
}

impl<T: Decode + Default> Decode for Nested<T> {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.kind() {
            JsonKind::Null => cursor.skip(),
            JsonKind::String => {
                *self = Self::default();
                let text = cursor.string();
                if text.is_empty() {
                    return;
                }
                self.present = true;
                match Cursor::open(text.as_bytes()) {
                    Ok(mut inner) => {
                        self.document.decode(&mut inner);
                        if let Some(error) = inner.into_error() {
                            cursor.fail(error);
                        }
                    }
                    Err(syntax) => cursor.misfit("a JSON document as text", syntax.what),
                }
            }
            _ => cursor.mismatch("a JSON document as text"),
        }
    }
}

impl<T: Serialize> Serialize for Nested<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.present {
            return serializer.serialize_str("");
        }
        let text = serde_json::to_string(&self.document).map_err(ser::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

impl<'de, T: Decode + Default> Deserialize<'de> for Nested<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::default());
        }
        super::from_slice(text.as_bytes())
            .map(Self::new)
            .map_err(|error: super::JsonError| de::Error::custom(error))
    }
}

/// For messages that cannot do without their document.
impl<T> Nested<T> {
    /// # Errors
    /// The member was absent, null or empty.
    pub fn required(&self, member: &'static str) -> Result<(), TypeError> {
        if self.present {
            return Ok(());
        }
        Err(TypeError {
            member,
            wanted: "a JSON document as text",
            found: "nothing",
        })
    }
}
