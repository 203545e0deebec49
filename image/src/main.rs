//! `image`: makes an initrd and its manifest from a profile, checks one against the other, and
//! makes everything else that ships.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser};
use image::crates::{Crates, Sources};
use image::manifest::Manifest;
use image::pack::Format;
use image::profile::Fill;
use image::sbom::{Other, Product};
use image::{archive, disk, dist, efi, json_text, modules, pack, profile, size, uki, vhdx, Error};

/// Writes the guest's initrd and what ships with it, reproducibly.
#[derive(Parser)]
enum Command {
    /// Make an image; its manifest goes beside it, as OUTPUT with the ending `.manifest.json`.
    Build(Build),
    /// Make the disks of a root file system from an initrd: ext4 in a fixed VHD, with dm-verity.
    Disk(Disk),
    /// Write the bill of materials of the guest and the licences of its crates.
    Sbom(Sbom),
    /// Gather the shipping set, all or nothing.
    Dist(Dist),
    /// Print the sizes of the guest and the images in a directory; fail over a budget.
    Sizes(Sizes),
    /// Make a disk that UEFI boots, as VHDX: one program of stub, kernel, command line and initrd.
    EfiDisk(EfiDisk),
    /// Take modules out of a packaged kernel, with those that they depend on: the input `modules`
    /// of a profile for a kernel that has them.
    Modules(Modules),
    /// Compare an image with the manifest beside it.
    Verify(Verify),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Build(build) => build.run(),
        Command::Disk(disk) => disk.run(),
        Command::Sbom(sbom) => sbom.run(),
        Command::Dist(dist) => dist.run(),
        Command::Sizes(sizes) => sizes.run(),
        Command::EfiDisk(disk) => disk.run(),
        Command::Modules(modules) => modules.run(),
        Command::Verify(verify) => verify.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

#[derive(Args)]
struct Build {
    /// The table of entries.
    #[arg(long)]
    profile: PathBuf,
    /// NAME=FILE: a file that the profile asks for.
    #[arg(long, value_parser = pair)]
    input: Vec<(String, String)>,
    /// NAME=TEXT: what replaces {NAME} in the texts of the profile.
    #[arg(long, value_parser = pair)]
    value: Vec<(String, String)>,
    /// Seconds since 1970: the time of every entry.
    #[arg(long, default_value_t = 0)]
    epoch: u32,
    #[arg(long, value_enum, default_value = "none")]
    format: Format,
    #[arg(long)]
    output: PathBuf,
}

impl Build {
    fn run(self) -> Result<(), Error> {
        let inputs = self.input.into_iter();
        let fill = Fill {
            inputs: inputs.map(|(name, file)| (name, file.into())).collect(),
            values: self.value.into_iter().collect(),
        };
        let (name, tree) = profile::load(&self.profile, &fill)?;
        let (format, epoch) = (self.format, self.epoch);
        let archive = archive::write(&tree, epoch)?;
        let image = pack::pack(format, &archive)?;
        let manifest = Manifest::new(name, &tree, format, epoch, fill.values, &archive, &image);
        let text = json_text("manifest", &manifest)?;
        store(&manifest_of(&self.output), &text)?;
        store(&self.output, &image)
    }
}

#[derive(Args)]
struct Disk {
    #[arg(long)]
    initrd: PathBuf,
    /// Where they go.
    #[arg(long)]
    output: PathBuf,
}

impl Disk {
    fn run(self) -> Result<(), Error> {
        let bytes = read("cannot read the initrd", &self.initrd)?;
        let work =
            tempfile::tempdir().map_err(Error::io("cannot work in", &std::env::temp_dir()))?;
        let disks = disk::of_initrd(&bytes, work.path())?;
        create(&self.output)?;
        store(&self.output.join(disk::DISK), &disks.root)?;
        store(&self.output.join(disk::HASH_DISK), &disks.hashes)?;
        let facts = json_text("facts", &disks.facts)?;
        store(&self.output.join(disk::FACTS), &facts)
    }
}

#[derive(Args)]
struct Sbom {
    /// Output of `cargo tree --prefix none --format {p}`.
    #[arg(long)]
    tree: PathBuf,
    /// Output of `cargo metadata --format-version 1`.
    #[arg(long)]
    metadata: PathBuf,
    #[arg(long)]
    lock: PathBuf,
    /// JSON: a list of the components that are not crates.
    #[arg(long)]
    others: PathBuf,
    /// NAME=TEXT: `image`, `version` and `date`.
    #[arg(long, value_parser = pair)]
    value: Vec<(String, String)>,
    #[arg(long)]
    output: PathBuf,
    #[arg(long)]
    licences: PathBuf,
}

impl Sbom {
    fn run(self) -> Result<(), Error> {
        let text =
            |path: &Path| std::fs::read_to_string(path).map_err(Error::io("cannot read", path));
        let others = text(&self.others)?;
        let others: Vec<Other> = serde_json::from_str(&others).map_err(|source| Error::Syntax {
            path: self.others,
            source,
        })?;
        let values: BTreeMap<String, String> = self.value.into_iter().collect();
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
            tree: &text(&self.tree)?,
            metadata: &text(&self.metadata)?,
            lock: &text(&self.lock)?,
        })?;
        let bill = json_text("bill", &crates.bill(&product, &others))?;
        store(&self.output, &bill)?;
        store(&self.licences, crates.licences()?.as_bytes())
    }
}

#[derive(Args)]
struct Dist {
    /// The table of files.
    #[arg(long)]
    list: PathBuf,
    /// The directory that the table's files are below.
    #[arg(long)]
    top: PathBuf,
    /// NAME=TEXT: what replaces {NAME} in the origins.
    #[arg(long, value_parser = pair)]
    value: Vec<(String, String)>,
    /// Seconds since 1970: the time of every file.
    #[arg(long)]
    epoch: u32,
    #[arg(long)]
    output: PathBuf,
}

impl Dist {
    fn run(self) -> Result<(), Error> {
        let values = self.value.into_iter().collect();
        dist::assemble(&self.list, &self.top, &values, self.epoch, &self.output)
    }
}

#[derive(Args)]
struct Sizes {
    directory: PathBuf,
}

impl Sizes {
    fn run(self) -> Result<(), Error> {
        let sizes = size::of(&self.directory)?;
        print!("{}", sizes.table);
        match sizes.over.is_empty() {
            true => Ok(()),
            false => Err(Error::Archive(sizes.over.join("; "))),
        }
    }
}

#[derive(Args)]
struct EfiDisk {
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
}

impl EfiDisk {
    fn run(self) -> Result<(), Error> {
        let program = uki::unify(&uki::Parts {
            stub: &read("cannot read the stub", &self.stub)?,
            kernel: &read("cannot read the kernel", &self.kernel)?,
            initrd: &read("cannot read the initrd", &self.initrd)?,
            command_line: &self.command_line,
        })?;
        let disk = efi::disk(&[(efi::BOOT_PROGRAM, &program)])?;
        store(&self.output, &vhdx::wrap(&disk))
    }
}

#[derive(Args)]
struct Modules {
    /// The kernel's directory, /lib/modules/VERSION.
    #[arg(long)]
    from: PathBuf,
    /// Lines `must|want NAME REASON`.
    #[arg(long)]
    list: PathBuf,
    /// A directory, which is made anew.
    #[arg(long)]
    output: PathBuf,
}

impl Modules {
    fn run(self) -> Result<(), Error> {
        let list = std::fs::read_to_string(&self.list)
            .map_err(Error::io("cannot read the list", &self.list))?;
        let choice = modules::choose(&self.from, &list)?;
        for (name, reason) in &choice.missing {
            eprintln!("    the kernel has no {name}: {reason}");
        }
        if self.output.exists() {
            std::fs::remove_dir_all(&self.output)
                .map_err(Error::io("cannot empty", &self.output))?;
        }
        create(&self.output)?;
        let mut order = String::new();
        for modules::Module { name, bytes } in &choice.modules {
            store(&self.output.join(format!("{name}.ko")), bytes)?;
            order.push_str(name);
            order.push('\n');
        }
        store(&self.output.join(modules::ORDER), order.as_bytes())
    }
}

#[derive(Args)]
struct Verify {
    image: PathBuf,
}

impl Verify {
    fn run(self) -> Result<(), Error> {
        let path = manifest_of(&self.image);
        let manifest = read("cannot read the manifest", &path)?;
        let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| {
            Error::Archive(format!("{} is no manifest: {error}", path.display()))
        })?;
        manifest.verify(&read("cannot read the image", &self.image)?)
    }
}

fn manifest_of(image: &Path) -> PathBuf {
    image.with_extension("manifest.json")
}

/// Writes a file completely or not at all, and only when it changes, so that make rebuilds nothing
/// for the same bytes.
fn store(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
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
    write().map_err(Error::io("cannot write", path))
}

/// The bytes of a file; `doing` begins the error.
fn read(doing: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(Error::io(doing, path))
}

fn create(dir: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(Error::io("cannot create", dir))
}
