//! CombinedLayers: a container's root from read-only layers and a scratch directory
//! (protocol section 7.6). The container's bundle, which is the directory that the root lies in, is
//! moved to the scratch, so that what a pod writes there takes no memory (16.5).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::kernel::{Kernel, Linux, Mount};
use super::overlay::{Overlay, Upper};
use super::{clean, Journal, MountRecord, Source, Undo};
use crate::error::Failure;

/// A root to be mounted. It is checked when the request is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CombinedLayers {
    root: PathBuf,
    /// The topmost first; never empty.
    layers: Vec<PathBuf>,
    scratch: Option<PathBuf>,
}

impl CombinedLayers {
    /// From the members of the settings; an empty `scratch` is none.
    ///
    /// # Errors
    /// No layer, no `ContainerRootPath`, or a path that is not absolute.
    pub fn new<P: AsRef<Path>>(root: &str, layers: &[P], scratch: &str) -> Result<Self, Failure> {
        if layers.is_empty() {
            return Err(Failure::unspecified(format!(
                "CombinedLayers for {root:?} without layers"
            )));
        }
        Ok(Self {
            root: container_root(root)?,
            layers: layers
                .iter()
                .map(|layer| absolute("layer", layer.as_ref()))
                .collect::<Result<_, _>>()?,
            scratch: match scratch {
                "" => None,
                path => Some(absolute("ScratchPath", Path::new(path))?),
            },
        })
    }
}

/// `ContainerRootPath`, cleaned.
///
/// # Errors
/// An empty path, or one that is not absolute.
pub fn container_root(root: &str) -> Result<PathBuf, Failure> {
    absolute("ContainerRootPath", Path::new(root))
}

fn absolute(what: &str, path: &Path) -> Result<PathBuf, Failure> {
    clean(path)
        .map_err(|error| Failure::unspecified(format!("{what} {path:?} cannot be used: {error}")))
}

/// Mounts the layers, writable with a scratch path (P-261) and otherwise read-only. After a failure
/// only what was there before is left (P-263).
pub fn add(layers: &CombinedLayers, journal: &Journal) -> Result<MountRecord, Failure> {
    add_with(&Linux, journal, layers)
}

pub(super) fn add_with(
    kernel: &dyn Kernel,
    journal: &Journal,
    layers: &CombinedLayers,
) -> Result<MountRecord, Failure> {
    for layer in &layers.layers {
        // This is checked first, because the mount's error would not name the layer.
        let missing = match fs::metadata(layer) {
            Ok(found) if found.is_dir() => continue,
            Ok(_) => "it is not a directory".to_owned(),
            Err(error) => error.to_string(),
        };
        return Err(Failure::unspecified(format!(
            "layer {layer:?} for {:?} cannot be used: {missing}",
            layers.root
        )));
    }
    Undo::run(kernel, journal, |undo| {
        let upper = match &layers.scratch {
            Some(scratch) => {
                let upper = Upper {
                    upper: scratch.join("upper"),
                    work: scratch.join("work"),
                };
                undo.make_directories(&upper.upper, 0o755)?;
                undo.make_directories_for_kernel(&upper.work, 0o755)?;
                place_bundle(undo, &layers.root, scratch)?;
                Some(upper)
            }
            None => None,
        };
        undo.make_directories(&layers.root, 0o755)?;
        let filesystem = match (layers.layers.as_slice(), upper) {
            ([only], None) => {
                bind_read_only(undo, only, &layers.root)?;
                ""
            }
            (_, upper) => {
                undo.overlay(&Overlay {
                    target: layers.root.clone(),
                    lower: layers.layers.clone(),
                    upper,
                })?;
                "overlay"
            }
        };
        Ok(MountRecord {
            source: Source::Layers,
            mount_path: Some(layers.root.clone()),
            device: None,
            filesystem: filesystem.into(),
            read_only: layers.scratch.is_none(),
            mappings: Vec::new(),
        })
    })
}

/// The name of a bundle in the scratch of its container.
const BUNDLE: &str = "bundle";

/// Puts the bundle on the scratch by a bind mount, which stays until the container is deleted. A
/// bundle that is there already, or that holds something, is left where it is.
fn place_bundle(undo: &mut Undo<'_>, root: &Path, scratch: &Path) -> Result<(), Failure> {
    let Some(bundle) = root.parent() else {
        return Ok(());
    };
    let is_free = match fs::read_dir(bundle) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if scratch.starts_with(bundle) || !is_free {
        return Ok(());
    }
    let place = scratch.join(BUNDLE);
    undo.make_directories(&place, 0o755)?;
    undo.make_directories(bundle, 0o755)?;
    let mount = Mount {
        source: &place,
        target: bundle,
        kind: "",
        flags: MsFlags::MS_BIND,
        data: "",
    };
    undo.mount(mount).map_err(|error| {
        Failure::unspecified(format!("cannot place {bundle:?} at {place:?}: {error}"))
    })
}

/// The kernel refuses an overlay of a single read-only layer, and a bind mount shows the same.
fn bind_read_only(undo: &mut Undo<'_>, layer: &Path, root: &Path) -> Result<(), Failure> {
    let kernel = undo.kernel();
    let mut mount = Mount {
        source: layer,
        target: root,
        kind: "",
        flags: MsFlags::MS_BIND,
        data: "",
    };
    let failed = |error| {
        Failure::unspecified(format!(
            "cannot mount the layer {layer:?} on {root:?}: {error}"
        ))
    };
    undo.mount(mount).map_err(failed)?;
    // A bind mount accepts other flags only in a second call.
    mount.flags |= MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    kernel.mount(mount).map_err(failed)
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
