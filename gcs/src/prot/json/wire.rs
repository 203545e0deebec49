//! Message types as tables: one line per member with its name on the wire.

/// Defines a struct that is written by serde and read by [`Decode`](super::Decode).
///
/// `: base` embeds another type's members, which come first, as Go's embedding does.
/// `unless "is_default"` leaves the member out when it has its default value (`omitempty`).
macro_rules! wire {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $(: $base:ident)? {
            $( $(#[$fmeta:meta])* pub $field:ident : $type:ty = $wire:literal $(unless $omit:literal)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                #[serde(flatten)]
                pub base: $base,
            )?
            $(
                $(#[$fmeta])*
                #[serde(rename = $wire $(, skip_serializing_if = $omit)?)]
                pub $field: $type,
            )*
        }

        impl $name {
            /// Reads the member called `name`, if this type has it.
            #[allow(dead_code, unused_variables)] // Only types used as a base are asked by others.
            pub(crate) fn member(&mut self, name: &str, cursor: &mut $crate::prot::json::Cursor<'_>) -> bool {
                $(
                    if $crate::prot::json::same_name(name, $wire) {
                        $crate::prot::json::Decode::decode(&mut self.$field, cursor.at_member($wire));
                        return true;
                    }
                )*
                $(
                    let _: &$base = &self.base;
                    if self.base.member(name, cursor) {
                        return true;
                    }
                )?
                false
            }
        }

        impl $crate::prot::json::Decode for $name {
            fn decode(&mut self, cursor: &mut $crate::prot::json::Cursor<'_>) {
                match cursor.kind() {
                    $crate::prot::json::JsonKind::Null => cursor.skip(),
                    $crate::prot::json::JsonKind::Object => cursor.object(|name, cursor| {
                        if !self.member(name, cursor) {
                            cursor.skip();
                        }
                    }),
                    _ => cursor.mismatch("an object"),
                }
            }
        }
    };
}

/// Defines an enum of texts that also keeps texts that it does not know.
macro_rules! names {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$vmeta:meta])* $variant:ident = $wire:literal ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $( $(#[$vmeta])* $variant, )*
            /// Any other text, as sent.
            Other(String),
        }

        impl $name {
            /// The text on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $( Self::$variant => $wire, )*
                    Self::Other(text) => text,
                }
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                match text.as_str() {
                    $( $wire => Self::$variant, )*
                    _ => Self::Other(text),
                }
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                match name {
                    $name::Other(text) => text,
                    known => known.as_str().to_owned(),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::prot::json::Decode for $name {
            fn decode(&mut self, cursor: &mut $crate::prot::json::Cursor<'_>) {
                let mut text = String::from(self.clone());
                $crate::prot::json::Decode::decode(&mut text, cursor);
                *self = Self::from(text);
            }
        }
    };
}

/// Go's rule for member names: equal, or equal except for case. Two characters outside ASCII fold
/// into ASCII letters.
pub fn same_name(sent: &str, known: &str) -> bool {
    if sent.is_ascii() {
        return sent.eq_ignore_ascii_case(known);
    }
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    sent.chars().map(fold).eq(known.chars().map(fold))
}

pub(crate) use {names, wire};
