//! The container engine checks a few ASCII patterns with `regex`, whose Unicode tables and
//! automata would be a fifth of the guest's only program. This crate takes its place there.

pub use regex_lite::*;
