//! The one thing that safe code cannot express: what a child does before its exec.
#![allow(unsafe_code)] // The only module of the crate with `unsafe`.

pub mod child;
