//! How one value is read into one place.

use std::collections::BTreeMap;

use super::{Cursor, JsonKind};
use crate::prot::HResult;

/// Reads a value into `self`, which holds what an absent member means.
///
/// Implementations consume exactly one value, change nothing for `null`, and report a value of
/// another type through the cursor instead of failing.
pub trait Decode {
    fn decode(&mut self, cursor: &mut Cursor<'_>);
}

macro_rules! integers {
    ($($int:ty = $wanted:literal),*) => {$(
        impl Decode for $int {
            fn decode(&mut self, cursor: &mut Cursor<'_>) {
                match cursor.kind() {
                    JsonKind::Null => cursor.skip(),
                    // No fraction, no exponent, no rounding: what `parse` takes, JSON's grammar given.
                    JsonKind::Number => match cursor.scalar().parse() {
                        Ok(value) => *self = value,
                        Err(_) => cursor.misfit($wanted, "another number"),
                    },
                    _ => cursor.mismatch($wanted),
                }
            }
        }
    )*};
}

integers!(
    u8 = "an integer of 0 to 255",
    u16 = "an integer of 0 to 65535",
    u32 = "an unsigned 32-bit integer",
    u64 = "an unsigned 64-bit integer",
    i32 = "a signed 32-bit integer",
    i64 = "a signed 64-bit integer"
);

impl Decode for HResult {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        self.0.decode(cursor);
    }
}

impl Decode for bool {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.kind() {
            JsonKind::Null => cursor.skip(),
            JsonKind::Bool => *self = cursor.scalar() == "true",
            _ => cursor.mismatch("a boolean"),
        }
    }
}

impl Decode for String {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.kind() {
            JsonKind::Null => cursor.skip(),
            JsonKind::String => *self = cursor.string().into_owned(),
            _ => cursor.mismatch("a string"),
        }
    }
}

impl<T: Decode + Default> Decode for Option<T> {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        if cursor.null() {
            *self = None;
        } else {
            self.get_or_insert_default().decode(cursor);
        }
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        (**self).decode(cursor);
    }
}

impl<T: Decode + Default> Decode for Vec<T> {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.kind() {
            JsonKind::Null => {
                cursor.skip();
                self.clear();
            }
            JsonKind::Array => {
                self.clear();
                cursor.array(|cursor| {
                    let mut element = T::default();
                    element.decode(cursor);
                    self.push(element);
                });
            }
            _ => cursor.mismatch("an array"),
        }
    }
}

impl<T: Decode + Default> Decode for BTreeMap<String, T> {
    fn decode(&mut self, cursor: &mut Cursor<'_>) {
        match cursor.kind() {
            JsonKind::Null => {
                cursor.skip();
                self.clear();
            }
            JsonKind::Object => cursor.object(|name, cursor| {
                let mut value = T::default();
                value.decode(cursor);
                self.insert(name.to_owned(), value);
            }),
            _ => cursor.mismatch("an object"),
        }
    }
}
