//! Moves a process's standard streams between its pipes (or terminal) and the connections to
//! the host.
//!
//! ```text
//! stdin   connection ──► pipe      end of file: the pipe is closed, the connection kept
//! stdout  pipe ──► connection      end of file: half-close, wait for the host's close
//! stderr  pipe ──► connection      a broken connection: go on reading, drop what comes
//! ```
//!
//! A process is complete when it was reaped *and* its [`Relay`] is done: that is what makes
//! output arrive before the exit is reported (P-157). What a stream waits for is derived from
//! its state, never toggled. A slow reader is not an error, only a close or reset is.

mod pipe;
mod relay;
mod stream;
mod transfer;

pub use pipe::{input_pipe, output_pipe};
pub use relay::{Relay, StreamKind};
pub use stream::{Input, Output, Side, Stream};
