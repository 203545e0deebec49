//! Turns a container image, as it is named on the command line, into read-only EROFS disks, one for
//! each layer, and a spec of what to run in them.
//!
//! ```text
//! path ─ store (directory | archive index) ─ manifest ┬ config ─────────────→ spec (OCI runtime)
//!                                                     └ layers ─ archive ─ tarball ┐
//! rootfs directory ─ rootfs ───────────────────────────────────────────────────────┼ layer ─ erofs → disks
//! busybox of the host ─ busybox ───────────────────────────────────────────────────┘
//! ```
//!
//! Nothing here needs root. A layer is read once, and its contents go straight to the disk; digests are
//! checked while it is read (blob and diff id against the manifest). Later runs find its disk in the
//! cache by the digests of the layer and of those below it.

mod archive;
mod blob;
mod busybox;
mod cache;
mod choice;
mod e2fs;
mod erofs;
mod error;
mod layer;
mod manifest;
mod meta;
mod platform;
mod rootfs;
mod spec;
mod store;
mod tarball;

use std::fs::File;
use std::path::Path;
use std::rc::Rc;

pub use blob::Digest;
pub use busybox::find as busybox;
pub use cache::{Cache, LayerDisk, SCRATCH_BYTES};
pub use e2fs::tool_path;
pub use error::OciError;
pub use manifest::ImageConfig;
pub use platform::Platform;
pub use spec::{standalone, user_of, Process};

use blob::{decompress, Compression, Hashing, Slice};
use error::{Doing, Result};
use layer::Builder;
use manifest::{check, missing, LayerBlob, Manifest};
use store::Store;
use tarball::Markers;

/// What a container starts from.
#[derive(Debug, Clone)]
pub struct Image {
    /// From the bottom up: the topmost layer is the last. (CombinedLayers wants the reverse.)
    pub layers: Vec<LayerDisk>,
    pub config: ImageConfig,
}

impl Image {
    /// The files of its layers, from the bottom up.
    pub fn layer_files(&self) -> Vec<&Path> {
        let layers = self.layers.iter();
        layers.map(|layer| layer.path.as_path()).collect()
    }
}

/// Reads the image at `reference`: an OCI layout directory, an OCI or `docker save` archive, a
/// rootfs directory or a rootfs tar (archives also gzip or zstd). Of an image for several platforms it
/// takes what fits `wanted` best. May take minutes the first time.
pub fn load(reference: &Path, wanted: &Platform, cache: &Cache) -> Result<Image, OciError> {
    let about = match std::fs::metadata(reference) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(OciError::Missing(reference.to_path_buf()));
        }
        about => about.doing(|| format!("reading image {}", reference.display()))?,
    };
    let shown = reference.display().to_string();
    if about.is_dir() {
        if reference.join("index.json").is_file() {
            return layered(&shown, Store::Dir(reference.to_path_buf()), wanted, cache);
        }
        return directory(reference, cache);
    }
    if !about.is_file() {
        return Err(OciError::Unknown {
            image: reference.to_path_buf(),
            why: "neither a directory nor a file".into(),
        });
    }
    let store = Store::archive(reference, cache.dir())?;
    if store.has("index.json") || store.has("manifest.json") {
        layered(&shown, store, wanted, cache)
    } else {
        rootfs_tar(&shown, reference, cache)
    }
}

/// The image that is made from this machine's own static busybox.
pub fn default_image(cache: &Cache) -> Result<Image, OciError> {
    busybox::image(cache)
}

fn layered(shown: &str, store: Store, wanted: &Platform, cache: &Cache) -> Result<Image> {
    let Manifest { layers, config } = if store.has("index.json") {
        choice::manifest(&store, wanted).and_then(|chosen| manifest::oci(&store, &chosen))
    } else {
        manifest::docker(&store)
    }
    .map_err(|e| e.within(shown))?;
    let count = layers.len();
    let mut disks: Vec<LayerDisk> = Vec::new();
    for (number, layer) in (1..).zip(&layers) {
        let what = format!("layer {number} of {count} of image {shown}");
        let key = match disks.last() {
            None => layer.diff_id.hex(),
            Some(below) => Digest::of_chain(&below.key, &layer.diff_id).hex(),
        };
        let disk = cache.layer(&what, &key, &disks, |builder| {
            convert(&what, &store, layer, builder)
        })?;
        disks.push(disk);
    }
    let layers = disks;
    Ok(Image { layers, config })
}

fn convert(what: &str, store: &Store, layer: &LayerBlob, builder: &mut Builder) -> Result<()> {
    let slice = store
        .open(&layer.name)?
        .ok_or_else(|| missing(&layer.name).within(what))?;
    if let Some(bytes) = layer.bytes.filter(|bytes| *bytes != slice.len()) {
        let why = format!("{} has {} bytes, not {bytes}", layer.name, slice.len());
        return Err(OciError::corrupt(what, why));
    }
    let (blob, diff) = unpack(what, slice, Markers::Whiteouts, builder)?;
    if let Some(digest) = &layer.digest {
        check(what, digest, &blob)?;
    }
    check(what, &layer.diff_id, &diff)
}

/// Reads a tar to its end; the digests of the stored and of the uncompressed bytes.
fn unpack(
    what: &str,
    slice: Slice,
    markers: Markers,
    builder: &mut Builder,
) -> Result<(Digest, Digest)> {
    let corrupt = |e: std::io::Error| OciError::corrupt(what, e.to_string());
    let mut stored = Hashing::new(slice);
    let (compression, plain) = decompress(what, &mut stored)?;
    if compression == Compression::None {
        let mut plain = plain;
        tarball::read(what, &mut plain, markers, builder)?;
        drop(plain);
        let (digest, _) = stored.finish().map_err(corrupt)?;
        return Ok((digest.clone(), digest));
    }
    let mut plain = Hashing::new(plain);
    tarball::read(what, &mut plain, markers, builder)?;
    let (diff, _) = plain.finish().map_err(corrupt)?;
    let (blob, _) = stored.finish().map_err(corrupt)?;
    Ok((blob, diff))
}

fn directory(root: &Path, cache: &Cache) -> Result<Image> {
    let root = root
        .canonicalize()
        .doing(|| format!("reading image {}", root.display()))?;
    let what = format!("image {}", root.display());
    let key = rootfs::fingerprint(&root)?.ok_or_else(|| OciError::Unknown {
        image: root.clone(),
        why: "an empty directory".into(),
    })?;
    let layer = cache.layer(&what, &key, &[], |builder| {
        rootfs::fill(&what, &root, &key, builder)
    })?;
    Ok(plain(layer))
}

fn rootfs_tar(shown: &str, path: &Path, cache: &Cache) -> Result<Image> {
    let what = format!("image {shown}");
    let open = || -> Result<Slice> {
        let file = File::open(path).doing(|| format!("reading {what}"))?;
        let bytes = file.metadata().doing(|| format!("reading {what}"))?.len();
        Ok(Slice::new(Rc::new(file), 0, bytes))
    };
    let (digest, _) = Hashing::new(open()?)
        .finish()
        .doing(|| format!("reading {what}"))?;
    // Not a diff id: in a layer of the same bytes, `.wh.` names would mean something else.
    let key = format!("rootfs-{}", digest.hex());
    let layer = cache.layer(&what, &key, &[], |builder| {
        let (blob, _) = unpack(&what, open()?, Markers::Plain, builder)?;
        check(&what, &digest, &blob)
    })?;
    Ok(plain(layer))
}

/// A bare root file system does not say what to run.
fn plain(layer: LayerDisk) -> Image {
    Image {
        layers: vec![layer],
        config: ImageConfig {
            cmd: vec!["/bin/sh".into()],
            ..ImageConfig::default()
        },
    }
}

#[cfg(test)]
mod tests;
