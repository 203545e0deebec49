//! The one thing of this side that safe code cannot say: what a child does before its exec.
#![allow(unsafe_code)] // The only module of the crate with `unsafe`.

pub mod child;
