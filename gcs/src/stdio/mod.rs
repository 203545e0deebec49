//! Moves a process's standard streams between its pipes (or terminal) and the connections to
//! the host.
//!
//! ```text
//! stdin   connection ──► pipe      end of file: the pipe is closed, the connection kept
//! stdout  pipe ──► connection      end of file: half-close, wait for the host's close
//! stderr  pipe ──► connection      a broken connection: go on reading, drop what comes
//! ```
//!
//! A process is complete when it is reaped *and* its [`Relay`] is done. This is why output arrives
//! before the exit is reported (P-157). What a stream waits for is derived from its state and never
//! toggled. A slow reader is no error; only a close or a reset is one.

mod pipe;
mod relay;
mod stream;
mod transfer;

pub use pipe::{input_pipe, output_pipe};
pub use relay::{Relay, StreamKind};
pub use stream::{Input, Output, Side, Stream};
