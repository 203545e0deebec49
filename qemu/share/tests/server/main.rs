//! The server as its client sees it.

mod attacks;
mod client;
mod files;
