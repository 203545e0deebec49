//! `image`: makes an initrd and its manifest from a profile, checks one against the other, and
//! makes everything else that ships.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use image::manifest::Manifest;
use image::pack::Format;
use image::profile::Fill;
use image::sbom::{Crates, Other, Product, Sources};
use image::{archive, disk, dist, efi, json_text, modules, pack, profile, size, uki, vhdx, Error};

#[derive(Parser)]
#[command(about = "Writes the guest's initrd and what ships with it, reproducibly.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an image; its manifest goes beside it, as OUTPUT with the ending `.manifest.json`.
    Build {
        /// The table of entries.
        #[arg(long)]
        profile: PathBuf,
        /// NAME=FILE: a file that the profile asks for.
        #[arg(long, value_parser = pair)]
        input: Vec<(String, String)>,
        /// NAME=TEXT: what stands for {NAME} in the texts of the profile.
        #[arg(long, value_parser = pair)]
        value: Vec<(String, String)>,
        /// Seconds since 1970: the time of every entry.
        #[arg(long, default_value_t = 0)]
        epoch: u32,
        #[arg(long, value_enum, default_value = "none")]
        format: Format,
        #[arg(long)]
        output: PathBuf,
    },
    /// Make the disks of a root file system from an initrd: ext4 in a fixed VHD, with dm-verity.
    Disk {
        #[arg(long)]
        initrd: PathBuf,
        /// Where they go.
        #[arg(long)]
        output: PathBuf,
    },
    /// Write the bill of materials of the guest and the licences of its crates.
    Sbom {
        /// Output of `cargo tree --prefix none --format {p}`.
        #[arg(long)]
        tree: PathBuf,
        /// Output of `cargo metadata --format-version 1`.
        #[arg(long)]
        metadata: PathBuf,
        #[arg(long)]
        lock: PathBuf,
        /// JSON: a list of what is no crate.
        #[arg(long)]
        others: PathBuf,
        /// NAME=TEXT: `image`, `version` and `date`.
        #[arg(long, value_parser = pair)]
        value: Vec<(String, String)>,
        #[arg(long)]
        output: PathBuf,
        #[arg(long)]
        licences: PathBuf,
    },
    /// Gather the shipping set, all or nothing.
    Dist {
        /// The table of files.
        #[arg(long)]
        list: PathBuf,
        /// The directory that the table's files are below.
        #[arg(long)]
        top: PathBuf,
        /// NAME=TEXT: what stands for {NAME} in the origins.
        #[arg(long, value_parser = pair)]
        value: Vec<(String, String)>,
        /// Seconds since 1970: the time of every file.
        #[arg(long)]
        epoch: u32,
        #[arg(long)]
        output: PathBuf,
    },
    /// Print the sizes of the guest and the images in a directory; fail over a budget.
    Sizes { directory: PathBuf },
    /// Make a disk that UEFI boots, as VHDX: one program of stub, kernel, command line and initrd.
    EfiDisk {
        /// The loader: linuxx64.efi.stub.
        #[arg(long)]
        stub: PathBuf,
        /// A bzImage.
        #[arg(long)]
        kernel: PathBuf,
        #[arg(long)]
        initrd: PathBuf,
        #[arg(long)]
        command_line: String,
        #[arg(long)]
        output: PathBuf,
    },
    /// Take modules out of a packaged kernel, with those that they depend on: the input `modules`
    /// of a profile for a kernel that has them.
    Modules {
        /// The kernel's directory, /lib/modules/VERSION.
        #[arg(long)]
        from: PathBuf,
        /// Lines `must|want NAME REASON`.
        #[arg(long)]
        list: PathBuf,
        /// A directory, which is made anew.
        #[arg(long)]
        output: PathBuf,
    },
    /// Compare an image with the manifest beside it.
    Verify { image: PathBuf },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

fn manifest_of(image: &Path) -> PathBuf {
    image.with_extension("manifest.json")
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Build {
            profile,
            input,
            value,
            epoch,
            format,
            output,
        } => {
            let inputs = input
                .into_iter()
                .map(|(name, file)| (name, file.into()))
                .collect();
            let mut fill = Fill {
                inputs,
                values: value.into_iter().collect(),
            };
            let (name, tree) = profile::load(&profile, &fill)?;
            let archive = archive::write(&tree, epoch)?;
            let image = pack::pack(format, &archive)?;
            let values = std::mem::take(&mut fill.values);
            let manifest = Manifest::new(name, &tree, format, epoch, values, &archive, &image);
            store(&manifest_of(&output), &json_text("manifest", &manifest)?)?;
            store(&output, &image)
        }
        Command::Disk { initrd, output } => {
            let bytes = std::fs::read(&initrd).map_err(io("cannot read the initrd", &initrd))?;
            let work = tempfile::tempdir().map_err(io("cannot work in", &std::env::temp_dir()))?;
            let disks = disk::of_initrd(&bytes, work.path())?;
            std::fs::create_dir_all(&output).map_err(io("cannot create", &output))?;
            store(&output.join(disk::DISK), &disks.root)?;
            store(&output.join(disk::HASH_DISK), &disks.hashes)?;
            store(
                &output.join(disk::FACTS),
                &json_text("facts", &disks.facts)?,
            )
        }
        Command::Sbom {
            tree,
            metadata,
            lock,
            others,
            value,
            output,
            licences,
        } => {
            let read = |path: &Path| std::fs::read_to_string(path).map_err(io("cannot read", path));
            let (tree, metadata, lock) = (read(&tree)?, read(&metadata)?, read(&lock)?);
            let list: Vec<Other> =
                serde_json::from_str(&read(&others)?).map_err(|source| Error::Syntax {
                    path: others,
                    source,
                })?;
            let values: BTreeMap<String, String> = value.into_iter().collect();
            let value = |name: &str| {
                let missing = || Error::Archive(format!("no value {name:?} (--value {name}=TEXT)"));
                values.get(name).map(String::as_str).ok_or_else(missing)
            };
            let product = Product {
                name: value("image")?,
                version: value("version")?,
                date: value("date")?,
            };
            let crates = Crates::read(&Sources {
                tree: &tree,
                metadata: &metadata,
                lock: &lock,
            })?;
            store(&output, &json_text("bill", &crates.bill(&product, &list))?)?;
            store(&licences, crates.licences()?.as_bytes())
        }
        Command::Dist {
            list,
            top,
            value,
            epoch,
            output,
        } => dist::assemble(&list, &top, &value.into_iter().collect(), epoch, &output),
        Command::Sizes { directory } => {
            let sizes = size::of(&directory)?;
            print!("{}", sizes.table);
            match sizes.over.is_empty() {
                true => Ok(()),
                false => Err(Error::Archive(sizes.over.join("; "))),
            }
        }
        Command::EfiDisk {
            stub,
            kernel,
            initrd,
            command_line,
            output,
        } => {
            let file = |what, path: &Path| std::fs::read(path).map_err(io(what, path));
            let program = uki::unify(&uki::Parts {
                stub: &file("cannot read the stub", &stub)?,
                kernel: &file("cannot read the kernel", &kernel)?,
                initrd: &file("cannot read the initrd", &initrd)?,
                command_line: &command_line,
            })?;
            let disk = efi::disk(&[(efi::BOOT_PROGRAM, &program)])?;
            store(&output, &vhdx::wrap(&disk))
        }
        Command::Modules { from, list, output } => {
            let text = std::fs::read_to_string(&list).map_err(io("cannot read the list", &list))?;
            let choice = modules::choose(&from, &text)?;
            for (name, reason) in &choice.missing {
                eprintln!("    the kernel has no {name}: {reason}");
            }
            if output.exists() {
                std::fs::remove_dir_all(&output).map_err(io("cannot empty", &output))?;
            }
            std::fs::create_dir_all(&output).map_err(io("cannot create", &output))?;
            let mut order = String::new();
            for modules::Module { name, bytes } in &choice.modules {
                store(&output.join(format!("{name}.ko")), bytes)?;
                order.push_str(name);
                order.push('\n');
            }
            store(&output.join(modules::ORDER), order.as_bytes())
        }
        Command::Verify { image } => {
            let path = manifest_of(&image);
            let text = std::fs::read(&path).map_err(io("cannot read the manifest", &path))?;
            let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
                Error::Archive(format!("{} is no manifest: {error}", path.display()))
            })?;
            let bytes = std::fs::read(&image).map_err(io("cannot read the image", &image))?;
            manifest.verify(&bytes)
        }
    }
}

/// Writes a file whole or not at all, and only when it changes, so that nothing is made again for
/// the same bytes.
fn store(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let failed = || io("cannot write", path);
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = parent.unwrap_or(Path::new(".")).join(name);
    let write = || {
        let mut file = std::fs::File::create(&new)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.write_all(bytes)?;
        std::fs::rename(&new, path)
    };
    write().map_err(failed())
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io {
        doing,
        path,
        source,
    }
}
