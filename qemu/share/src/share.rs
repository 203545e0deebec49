//! What is served, and the frames of its connection: one answer after the other.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};

use crate::fid::Node;
use crate::server::{Access, Server};
use crate::wire::{Name, HEAD};

/// What is served: a directory, or one file in it.
#[derive(Debug)]
pub struct Share {
    root: OwnedFd,
    only: Option<Name>,
    access: Access,
}

impl Share {
    /// The directory, or the file, at `path`. A file is served as the only entry of a directory,
    /// which cannot be changed.
    ///
    /// # Errors
    /// Those of open(2), of what is there now.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let (directory, only) = match (path.is_dir(), path.parent(), path.file_name()) {
            (false, Some(parent), Some(name)) => {
                (parent, Some(Name::new(name.as_encoded_bytes())?))
            }
            _ => (path.as_path(), None),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(directory, flags, Mode::empty())?;
        Ok(Self { root, only, access })
    }

    /// Answers the client to its end. It takes the calling thread for itself: the thread gets the
    /// rights of users in turn, so nothing else may run on it afterwards. The process may have as
    /// many open files as its hard limit says from then on.
    ///
    /// # Errors
    /// Those of the connection. A client that breaks the protocol gets no further answer
    /// (`InvalidData`).
    pub fn serve(self, stream: impl Read + Write) -> io::Result<()> {
        raise_descriptor_limit();
        let mut server = Server::new(Node::new(self.root, self.only), self.access)?;
        let mut stream = BufReader::new(stream);
        let (mut frame, mut answer) = (Vec::new(), Vec::new());
        loop {
            let mut size = [0; 4];
            match stream.read_exact(&mut size) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            let size = u32::from_le_bytes(size);
            if size < HEAD as u32 || size > server.largest() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "a 9P message of {size} bytes; {} are agreed on",
                        server.largest()
                    ),
                ));
            }
            frame.resize(size as usize - 4, 0);
            stream.read_exact(&mut frame)?;
            answer = server.answer(&frame, answer);
            stream.get_mut().write_all(&answer)?;
        }
    }
}

/// Each file that a guest has open is a descriptor of this process.
fn raise_descriptor_limit() {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        log::debug!("the limit of open files stays: {e}");
    }
}
