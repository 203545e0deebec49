//! The command `mkfs.ext4`, as far as a host uses it. The host makes the template of its scratch
//! disks by `mkfs.ext4 -q -E lazy_itable_init=0,nodiscard -O
//! ^has_journal,sparse_super2,^resize_inode /dev/<x>` (protocol section 11.4).

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::formatter::make_ext4;

/// Options of mke2fs(8) with a value. They are accepted and ignored: except for the journal, the
/// file system is the same in any case.
const WITH_VALUE: &[u8] = b"bCdEeGgIiJLMmNOorTtUz";
const SWITCHES: &[u8] = b"DFjKqSvc";

#[derive(Debug, PartialEq, Eq)]
struct Order {
    device: PathBuf,
    journal: bool,
}

/// Carries out the command line, without the program's name. The error is for people.
pub fn command(args: &[OsString]) -> Result<(), String> {
    let order = parse(args)?;
    make_ext4(&order.device, order.journal)
        .map_err(|error| format!("{}: {error}", order.device.display()))
}

fn parse(args: &[OsString]) -> Result<Order, String> {
    let mut journal = true;
    let mut devices = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        let [b'-', letters @ ..] = bytes else {
            devices.push(PathBuf::from(arg));
            continue;
        };
        let taking = letters
            .iter()
            .position(|letter| WITH_VALUE.contains(letter));
        let (switches, option) = letters.split_at(taking.unwrap_or(letters.len()));
        if letters.is_empty() || !switches.iter().all(|letter| SWITCHES.contains(letter)) {
            return Err(format!("unknown option {arg:?}"));
        }
        let value = match option {
            [] => continue,
            [_] => args.next().map_or(&b""[..], |arg| arg.as_bytes()),
            [_, value @ ..] => value,
        };
        match option[0] {
            _ if value.is_empty() => return Err(format!("{arg:?} needs a value")),
            b'O' => {
                let off = |name: &[u8]| name == b"^has_journal" || name == b"none";
                journal &= !value.split(|byte| *byte == b',').any(off);
            }
            b'b' if value != b"4096" => return Err("only blocks of 4096 bytes are made".into()),
            _ => {}
        }
    }
    match devices.as_slice() {
        [device] => Ok(Order {
            device: device.clone(),
            journal,
        }),
        [] => Err("a device is needed".into()),
        [_, more @ ..] => Err(format!(
            "the whole device is formatted, so {:?} is one argument too many",
            more[0]
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_command_lines_of_hosts_are_understood() {
        let host = "-q -E lazy_itable_init=0,nodiscard \
                    -O ^has_journal,sparse_super2,^resize_inode /dev/sda";
        for (line, journal) in [
            (host, false),
            ("/dev/sda", true),
            ("-qF -Oextent /dev/sda", true),
            ("-b 4096 -L scratch -m0 /dev/sda", true),
        ] {
            let device = "/dev/sda".into();
            assert_eq!(parse(&args(line)), Ok(Order { device, journal }), "{line}");
        }
        for (line, why) in [
            ("-q", "device"),
            ("/dev/sda 4096", "too many"),
            ("-b 1024 /dev/sda", "4096"),
            ("-x /dev/sda", "unknown"),
            ("- /dev/sda", "unknown"),
            ("/dev/sda -O", "value"),
        ] {
            let refused = parse(&args(line)).unwrap_err();
            assert!(refused.contains(why), "{line}: {refused}");
        }
    }

    #[test]
    fn a_file_is_formatted() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("disk");
        std::fs::File::create(&file)
            .unwrap()
            .set_len(16 << 20)
            .unwrap();
        command(&["-q".into(), file.clone().into()]).unwrap();
        assert_eq!(
            super::super::filesystem::detect(&file).unwrap(),
            Some("ext4")
        );
        assert!(command(&[top.path().join("none").into()]).is_err());
    }
}
