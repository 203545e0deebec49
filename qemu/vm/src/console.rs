//! The serial console: kept in a file, and watched for the guest's last words.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a kernel's end begins.
const PANIC: &str = "Kernel panic - not syncing";
/// Lines kept for reports; a panic with its trace has about 40.
const KEPT: usize = 80;
const LONGEST_LINE: usize = 1024;
/// After a panic the console may go on for this long.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Lines {
    kept: VecDeque<String>,
    open: Vec<u8>,
    panicked: Option<Instant>,
}

/// What the console said so far. Clones share it.
#[derive(Clone, Default)]
pub struct Console(Arc<Mutex<Lines>>);

impl Console {
    /// Reads the console to its end; `on_panic` is called once, with the kernel's last lines.
    pub(crate) fn watch(
        &self,
        mut from: UnixStream,
        mut file: Option<File>,
        on_panic: impl FnOnce(String),
    ) -> io::Result<()> {
        from.set_read_timeout(Some(LAST_WORDS / 4))?;
        let mut on_panic = Some(on_panic);
        let mut buffer = [0; 4096];
        loop {
            let ended = match from.read(&mut buffer) {
                Ok(0) => true,
                Ok(got) => {
                    let bytes = &buffer[..got];
                    if let Some(Err(e)) = file.as_mut().map(|file| file.write_all(bytes)) {
                        log::warn!("the console log ends here: {e}");
                        file = None;
                    }
                    self.take(bytes);
                    false
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => false,
                    // QEMU was killed.
                    _ => true,
                },
            };
            let over = self
                .lock()
                .panicked
                .is_some_and(|at| ended || at.elapsed() > LAST_WORDS);
            if over {
                if let Some(tell) = on_panic.take() {
                    tell(self.tail(KEPT));
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: &[u8]) {
        let mut lines = self.lock();
        for byte in bytes {
            if *byte == b'\n' || lines.open.len() == LONGEST_LINE {
                let line = String::from_utf8_lossy(&lines.open).trim_end().to_owned();
                lines.open.clear();
                if line.contains(PANIC) {
                    lines.panicked.get_or_insert_with(Instant::now);
                }
                if lines.kept.len() == KEPT {
                    lines.kept.pop_front();
                }
                lines.kept.push_back(line);
            }
            if *byte != b'\n' {
                lines.open.push(*byte);
            }
        }
    }

    /// The last lines, at most `count`.
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lock();
        let open = String::from_utf8_lossy(&lines.open);
        let mut all: Vec<&str> = lines.kept.iter().map(String::as_str).collect();
        all.push(open.trim_end());
        all.retain(|line| !line.is_empty());
        all[all.len().saturating_sub(count)..].join("\n")
    }

    pub fn has_panicked(&self) -> bool {
        self.lock().panicked.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_once_with_its_text() {
        let (ours, mut qemus) = UnixStream::pair().unwrap();
        let said = "gcs: fatal: no bridge\r\n[    1.0] Kernel panic - not syncing: Attempted \
                    to kill init! exitcode=0x00000100\r\n[    1.0] ---[ end Kernel panic";
        qemus.write_all(said.as_bytes()).unwrap();
        drop(qemus);
        let console = Console::default();
        let mut told = Vec::new();
        console.watch(ours, None, |text| told.push(text)).unwrap();
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("gcs: fatal: no bridge\n"), "{told:?}");
        assert!(
            told[0].contains("Attempted to kill init") && told[0].ends_with("end Kernel panic")
        );
        assert_eq!(console.tail(1), "[    1.0] ---[ end Kernel panic");
    }

    #[test]
    fn a_quiet_console_tells_nothing() {
        let (ours, mut qemus) = UnixStream::pair().unwrap();
        qemus.write_all(b"hello\n\n").unwrap();
        drop(qemus);
        let console = Console::default();
        console.watch(ours, None, |text| panic!("{text}")).unwrap();
        assert_eq!(console.tail(5), "hello");
    }
}
