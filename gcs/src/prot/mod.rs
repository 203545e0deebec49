//! The messages between host and guest, as data. No I/O here.

mod hresult;

pub use hresult::HResult;
