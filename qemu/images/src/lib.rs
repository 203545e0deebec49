//! Turns a container image, as it is named on the command line, into read-only ext4 disks, one for
//! each layer, and a spec of what to run in them.
//!
//! ```text
//! path ─ store (directory | archive index) ─ manifest ┬ config ───────────────→ spec (OCI runtime)
//!                                                     └ layers ─ tarball ─ tree ─ ext4 ─ cache → disks
//! rootfs directory ─ rootfs ──────────────────────────────────────────┘
//! busybox of the host ─ busybox ──────────────────────────────────────┘
//! ```
//!
//! Nothing here needs root. A layer is read once; digests are checked while it is (blob and diff id
//! against the manifest), later runs find its disk by the diff id alone.

mod blob;
mod busybox;
mod cache;
mod entries;
mod error;
mod ext4;
pub use ext4::tool_path;
mod manifest;
mod rootfs;
mod spec;
mod store;
mod tarball;
mod tree;
mod whiteout;

use std::fs::File;
use std::path::Path;
use std::rc::Rc;

pub use blob::Digest;
pub use busybox::find as busybox;
pub use cache::{Cache, LayerDisk, SCRATCH_BYTES};
pub use error::OciError;
pub use manifest::ImageConfig;
pub use spec::{standalone, user_of, Process};

use blob::{decompress, Hashing, Slice};
use error::{Doing, Result};
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
/// rootfs directory or a rootfs tar (archives also gzip or zstd). May take minutes the first time.
pub fn load(reference: &Path, cache: &Cache) -> Result<Image, OciError> {
    let about = match std::fs::metadata(reference) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(OciError::Missing(reference.to_path_buf()));
        }
        about => about.doing(|| format!("reading image {}", reference.display()))?,
    };
    let shown = reference.display().to_string();
    if about.is_dir() {
        if reference.join("index.json").is_file() {
            return layered(&shown, Store::Dir(reference.to_path_buf()), cache);
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
        layered(&shown, store, cache)
    } else {
        rootfs_tar(&shown, reference, cache)
    }
}

/// The image that is made from this machine's own static busybox.
pub fn default_image(cache: &Cache) -> Result<Image, OciError> {
    busybox::image(cache)
}

fn layered(shown: &str, store: Store, cache: &Cache) -> Result<Image> {
    let Manifest { layers, config } = if store.has("index.json") {
        manifest::oci(&store)
    } else {
        manifest::docker(&store)
    }
    .map_err(|e| e.within(shown))?;
    let count = layers.len();
    let layers = (1..)
        .zip(&layers)
        .map(|(number, layer)| {
            let what = format!("layer {number} of {count} of image {shown}");
            cache.layer(&what, &layer.diff_id.hex(), |staging| {
                convert(&what, &store, layer, staging)
            })
        })
        .collect::<Result<_>>()?;
    Ok(Image { layers, config })
}

fn convert(what: &str, store: &Store, layer: &LayerBlob, staging: &Path) -> Result<tree::Tree> {
    let slice = store
        .open(&layer.name)?
        .ok_or_else(|| missing(&layer.name).within(what))?;
    if let Some(bytes) = layer.bytes.filter(|bytes| *bytes != slice.len()) {
        let why = format!("{} has {} bytes, not {bytes}", layer.name, slice.len());
        return Err(OciError::corrupt(what, why));
    }
    let (tree, blob, diff) = unpack(what, slice, staging, Markers::Whiteouts)?;
    if let Some(digest) = &layer.digest {
        check(what, digest, &blob)?;
    }
    check(what, &layer.diff_id, &diff)?;
    Ok(tree)
}

/// Reads a tar to its end: the tree, the digest of the stored and of the uncompressed bytes.
fn unpack(
    what: &str,
    slice: Slice,
    staging: &Path,
    markers: Markers,
) -> Result<(tree::Tree, Digest, Digest)> {
    let corrupt = |e: std::io::Error| OciError::corrupt(what, e.to_string());
    let mut stored = Hashing::new(slice);
    let mut plain = Hashing::new(decompress(what, &mut stored)?);
    let tree = tarball::read(what, &mut plain, staging, markers)?;
    let (diff, _) = plain.finish().map_err(corrupt)?;
    let (blob, _) = stored.finish().map_err(corrupt)?;
    Ok((tree, blob, diff))
}

fn directory(root: &Path, cache: &Cache) -> Result<Image> {
    let root = root
        .canonicalize()
        .doing(|| format!("reading image {}", root.display()))?;
    let walked = rootfs::walk(&root)?;
    if walked.tree.children(tree::ROOT).next().is_none() {
        return Err(OciError::Unknown {
            image: root,
            why: "an empty directory".into(),
        });
    }
    let what = format!("image {}", root.display());
    let layer = cache.layer(&what, &walked.key, |_| Ok(walked.tree))?;
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
    let layer = cache.layer(&what, &key, |staging| {
        let (tree, blob, _) = unpack(&what, open()?, staging, Markers::Plain)?;
        check(&what, &digest, &blob)?;
        Ok(tree)
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
