//! The documents of an image: OCI index and manifest (image-spec), the manifest.json of
//! `docker save`, and the configuration that both share.

use std::collections::HashMap;
use std::str::FromStr as _;

use serde::de::DeserializeOwned;
use serde::Deserialize;

use super::blob::Digest;
use super::error::{OciError, Result};
use super::platform::Offered;
use super::store::Store;

/// What to run, and how, when the command line does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Empty: `/`.
    pub cwd: String,
    /// `name`, `uid`, `name:group`, `uid:gid`; empty: root.
    pub user: String,
    /// What asks its program to end, by its Linux number; `None`: SIGTERM.
    pub stop_signal: Option<i32>,
}

/// A layer as the image names it.
#[derive(Debug, Clone)]
pub struct LayerBlob {
    /// The file in the store.
    pub name: String,
    /// Of the file as it is stored (OCI), when the manifest tells.
    pub digest: Option<Digest>,
    pub bytes: Option<u64>,
    /// Of the uncompressed tar.
    pub diff_id: Digest,
}

/// Layers from the bottom up.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub layers: Vec<LayerBlob>,
    pub config: ImageConfig,
}

/// A part of an image, by its digest.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    size: u64,
    pub platform: Option<Offered>,
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciManifest {
    pub config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
    pub artifact_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(flatten)]
    platform: Offered,
    config: Option<Process>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Process {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

/// Reads what a manifest of an OCI image layout names.
pub fn oci(store: &Store, manifest: &OciManifest) -> Result<Manifest> {
    let config = blob(store, &manifest.config)?;
    let (config, diff_ids) = config_file(&manifest.config.digest, &config)?;
    let layers = pair(&manifest.layers, diff_ids)?
        .map(|(layer, diff_id)| {
            let digest = Digest::parse(&layer.digest)?;
            Ok(LayerBlob {
                name: blob_name(&digest),
                digest: Some(digest),
                bytes: Some(layer.size),
                diff_id,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Manifest { layers, config })
}

/// The platform in the configuration of an image.
pub fn platform_of(store: &Store, manifest: &OciManifest) -> Result<Offered> {
    let config = blob(store, &manifest.config)?;
    let file: ConfigFile = parse(&manifest.config.digest, &config)?;
    Ok(file.platform)
}

/// Reads the archive of `docker save`, with `<id>/layer.tar` (old) or `blobs/sha256/…` (new).
pub fn docker(store: &Store) -> Result<Manifest> {
    let bytes = store
        .document("manifest.json")?
        .ok_or_else(|| OciError::corrupt("the archive", "it has no manifest.json"))?;
    let images: Vec<DockerManifest> = parse("manifest.json", &bytes)?;
    let [image] = &images[..] else {
        let tags: Vec<_> = images
            .iter()
            .flat_map(|i| i.repo_tags.iter().flatten())
            .cloned()
            .collect();
        let why = format!(
            "it holds {} images ({}); one is wanted",
            images.len(),
            tags.join(", ")
        );
        return Err(OciError::unsupported("the archive", why));
    };
    let bytes = store
        .document(&image.config)?
        .ok_or_else(|| missing(&image.config))?;
    // The name is the digest: <hex>.json, or blobs/sha256/<hex>.
    let base = image.config.rsplit('/').next().unwrap_or_default();
    if let Some(digest) = Digest::parse_hex(base.trim_end_matches(".json")) {
        check(&image.config, &digest, &Digest::of(&bytes))?;
    }
    let (config, diff_ids) = config_file(&image.config, &bytes)?;
    let layers = pair(&image.layers, diff_ids)?
        .map(|(name, diff_id)| {
            Ok(LayerBlob {
                name: name.clone(),
                digest: None,
                bytes: None,
                diff_id,
            })
        })
        .collect::<Result<_>>()?;
    Ok(Manifest { layers, config })
}

/// The number of a signal as images have it: `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`.
fn signal(name: &str) -> Option<i32> {
    /// The first real-time signal that a C library leaves to programs, and the last.
    const REAL_TIME: (i32, i32) = (34, 64);
    if let Ok(number) = name.parse() {
        return Some(number).filter(|number| (1..=REAL_TIME.1).contains(number));
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let (first, rest) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => (REAL_TIME.0, rest),
        (None, Some(rest)) => (REAL_TIME.1, rest),
        (None, None) => {
            let known = nix::sys::signal::Signal::from_str(&format!("SIG{name}"));
            return known.ok().map(|signal| signal as i32);
        }
    };
    let offset: i32 = if rest.is_empty() {
        0
    } else {
        rest.parse().ok()?
    };
    let number = first.checked_add(offset)?;
    (REAL_TIME.0..=REAL_TIME.1)
        .contains(&number)
        .then_some(number)
}

fn config_file(name: &str, bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>)> {
    let file: ConfigFile = parse(name, bytes)?;
    // Old images say nothing of it.
    let is = |value: &str, wanted: &str| value.is_empty() || value == wanted;
    let Offered {
        os, architecture, ..
    } = &file.platform;
    if !is(os, "linux") || !is(architecture, "amd64") {
        let why = format!("it is for {}; the VM runs linux/amd64", file.platform);
        return Err(OciError::unsupported("the image", why));
    }
    let process = file.config.unwrap_or_default();
    let stop_signal = process.stop_signal.filter(|name| !name.is_empty());
    let stop_signal = stop_signal
        .map(|name| {
            let unknown = || format!("its stop signal {name:?} is none of Linux");
            signal(&name).ok_or_else(|| OciError::unsupported("the image", unknown()))
        })
        .transpose()?;
    let config = ImageConfig {
        entrypoint: process.entrypoint.unwrap_or_default(),
        cmd: process.cmd.unwrap_or_default(),
        env: process.env.unwrap_or_default(),
        cwd: process.working_dir.unwrap_or_default(),
        user: process.user.unwrap_or_default(),
        stop_signal,
    };
    let diff_ids = file
        .rootfs
        .diff_ids
        .iter()
        .map(|d| Digest::parse(d))
        .collect::<Result<_>>()?;
    Ok((config, diff_ids))
}

fn pair<T>(layers: &[T], diff_ids: Vec<Digest>) -> Result<impl Iterator<Item = (&T, Digest)>> {
    if layers.is_empty() || layers.len() != diff_ids.len() {
        let why = format!(
            "its manifest has {} layers, its config {}",
            layers.len(),
            diff_ids.len()
        );
        return Err(OciError::corrupt("the image", why));
    }
    Ok(layers.iter().zip(diff_ids))
}

pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A document by its descriptor, checked.
pub fn blob(store: &Store, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let digest = Digest::parse(&descriptor.digest)?;
    let name = blob_name(&digest);
    let bytes = store.document(&name)?.ok_or_else(|| missing(&name))?;
    check(&name, &digest, &Digest::of(&bytes))?;
    Ok(bytes)
}

pub fn missing(name: &str) -> OciError {
    OciError::corrupt("the image", format!("{name} is missing"))
}

pub fn check(what: &str, expected: &Digest, found: &Digest) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(OciError::corrupt(
        what,
        format!("its digest is {found}, not {expected}"),
    ))
}

pub fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| OciError::corrupt(what, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn stop_signals_have_names_and_numbers() {
        for (name, number) in [
            ("SIGQUIT", Some(3)),
            ("winch", Some(28)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMAX+1", None),
            ("0", None),
            ("65", None),
            ("SIG", None),
            ("SIGNONE", None),
        ] {
            assert_eq!(signal(name), number, "{name}");
        }
    }
}
