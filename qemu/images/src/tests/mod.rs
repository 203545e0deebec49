//! Layers go in as archives; the kernel's own EROFS and overlayfs show what became of them.

mod cache;
mod choice;
mod dialects;
mod files;
mod hostile;
mod images;
mod layers;
mod real;
mod seen;
mod specs;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{json, Value};

use super::layer::Builder;
use super::tarball::{self, Markers};
use super::{load, Cache, Digest, Image, LayerDisk, OciError, Platform};
use seen::{can_see, Seen};

struct Bench {
    dir: tempfile::TempDir,
    cache: Cache,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(&dir.path().join("cache dir"))).unwrap();
        Bench { dir, cache }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The layers, from the bottom up, as the disks of one image.
    fn disks(&self, layers: &[Vec<u8>]) -> Result<Vec<LayerDisk>, OciError> {
        let disks = self.unchecked(layers)?;
        disks.iter().for_each(checked);
        Ok(disks)
    }

    fn unchecked(&self, layers: &[Vec<u8>]) -> Result<Vec<LayerDisk>, OciError> {
        let mut disks: Vec<LayerDisk> = Vec::new();
        for tar in layers {
            let digest = Digest::of(tar);
            let key = match disks.last() {
                Some(below) => Digest::of_chain(&below.key, &digest).hex(),
                None => digest.hex(),
            };
            let read =
                |layer: &mut Builder| tarball::read("a layer", &tar[..], Markers::Whiteouts, layer);
            let disk = self.cache.layer("a layer", &key, &disks, read)?;
            disks.push(disk);
        }
        Ok(disks)
    }

    /// As on a machine of the plainest kind.
    fn load(&self, image: &Path) -> Result<Image, OciError> {
        load(
            image,
            &"linux/amd64".parse::<Platform>().unwrap(),
            &self.cache,
        )
    }

    /// Why layers are refused; nothing of them must stay.
    fn refusal(layers: &[Vec<u8>]) -> String {
        let bench = Bench::new();
        let error = bench.disks(layers).unwrap_err();
        let disks = layers.len() - 1;
        let left = sibling_names(bench.cache.dir());
        let left: Vec<_> = left
            .iter()
            .filter(|name| !name.ends_with(".lock"))
            .collect();
        assert_eq!(left.len(), disks, "left behind: {left:?}");
        error.to_string()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// The merged tree; `None` when this machine cannot show it (which is said).
fn merged(layers: &[Tar]) -> Option<Seen> {
    let bench = Bench::new();
    let layers: Vec<_> = layers.iter().map(|tar| tar.clone().end()).collect();
    let disks = bench.disks(&layers).unwrap();
    can_see().then(|| Seen::of(&disks))
}

/// Debian's own program finds nothing wrong with a disk.
fn checked(disk: &LayerDisk) {
    match Command::new("fsck.erofs")
        .arg(&disk.path)
        .env("PATH", crate::tool_path())
        .output()
    {
        Ok(done) => assert!(done.status.success(), "{disk:?}: {done:?}"),
        Err(_) => eprintln!("SKIPPED: fsck.erofs is not installed (Debian: erofs-utils)"),
    }
}

/// Writes tar entries, also those that the crate's own builder refuses.
#[derive(Default, Clone)]
struct Tar(Vec<u8>);

struct Entry<'a> {
    path: &'a [u8],
    kind: tar::EntryType,
    mode: u32,
    owner: (u64, u64),
    link: &'a [u8],
    device: (u32, u32),
    data: &'a [u8],
    xattrs: &'a [(&'a str, &'a [u8])],
    /// Other PAX records.
    pax: &'a [(&'a str, &'a str)],
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Entry {
            path: b"",
            kind: tar::EntryType::Regular,
            mode: 0o644,
            owner: (0, 0),
            link: b"",
            device: (0, 0),
            data: b"",
            xattrs: &[],
            pax: &[],
        }
    }
}

impl Tar {
    fn add(mut self, entry: Entry<'_>) -> Self {
        let mut records = Vec::new();
        let mut record = |key: String, value: &[u8]| {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len += 1;
            }
            records.extend_from_slice(format!("{len} {key}=").as_bytes());
            records.extend_from_slice(value);
            records.push(b'\n');
        };
        for (name, value) in entry.xattrs {
            record(format!("SCHILY.xattr.{name}"), value);
        }
        for (key, value) in entry.pax {
            record((*key).into(), value.as_bytes());
        }
        if entry.path.len() > 99 {
            record("path".into(), entry.path);
        }
        if entry.link.len() > 99 {
            record("linkpath".into(), entry.link);
        }
        if !records.is_empty() {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::XHeader);
            header.as_old_mut().name[..4].copy_from_slice(b"pax\0");
            self.raw(header, &records);
        }
        let mut header = tar::Header::new_gnu();
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(99)].to_vec();
        header.as_old_mut().name[..entry.path.len().min(99)].copy_from_slice(&cut(entry.path));
        header.as_old_mut().linkname[..entry.link.len().min(99)].copy_from_slice(&cut(entry.link));
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(1_600_000_000);
        header.set_device_major(entry.device.0).unwrap();
        header.set_device_minor(entry.device.1).unwrap();
        self.raw(header, entry.data);
        self
    }

    fn dir(self, path: &str, mode: u32, owner: (u64, u64)) -> Self {
        self.add(Entry {
            path: path.as_bytes(),
            kind: tar::EntryType::Directory,
            mode,
            owner,
            ..Entry::default()
        })
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.linked(path, target, tar::EntryType::Symlink)
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.linked(path, target, tar::EntryType::Link)
    }

    fn linked(self, path: &str, target: &str, kind: tar::EntryType) -> Self {
        self.add(Entry {
            path: path.as_bytes(),
            kind,
            link: target.as_bytes(),
            mode: 0o777,
            ..Entry::default()
        })
    }

    fn file(self, path: &str, data: &[u8]) -> Self {
        self.add(Entry {
            path: path.as_bytes(),
            data,
            ..Entry::default()
        })
    }

    fn raw(&mut self, mut header: tar::Header, data: &[u8]) {
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// The documents of an OCI layout around layers as `(stored bytes, uncompressed bytes)`.
fn oci_files(
    layers: &[(Vec<u8>, Vec<u8>)],
    config: Value,
    platform: Option<&str>,
) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![(
        "oci-layout".to_string(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    )];
    let mut blob = |bytes: Vec<u8>, kind: &str| {
        let digest = Digest::of(&bytes);
        let about = json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()});
        files.push((super::manifest::blob_name(&digest), bytes));
        about
    };
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|(_, plain)| Digest::of(plain).to_string())
        .collect();
    let descriptors: Vec<_> = layers
        .iter()
        .map(|(stored, _)| blob(stored.clone(), "application/vnd.oci.image.layer.v1.tar"))
        .collect();
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = blob(
        config.to_string().into_bytes(),
        "application/vnd.oci.image.config.v1+json",
    );
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": descriptors});
    let mut manifest = blob(
        manifest.to_string().into_bytes(),
        "application/vnd.oci.image.manifest.v1+json",
    );
    let mut index = json!({"schemaVersion": 2, "manifests": [manifest]});
    if let Some(architecture) = platform {
        manifest["platform"] = json!({"os": "linux", "architecture": architecture});
        let mut foreign = manifest.clone();
        foreign["digest"] = json!(Digest::of(b"nowhere").to_string());
        foreign["platform"] = json!({"os": "windows", "architecture": "amd64"});
        let nested = json!({"schemaVersion": 2, "manifests": [foreign, manifest]});
        let nested = blob(
            nested.to_string().into_bytes(),
            "application/vnd.oci.image.index.v1+json",
        );
        index = json!({"schemaVersion": 2, "manifests": [nested]});
    }
    files.push(("index.json".into(), index.to_string().into_bytes()));
    files
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let tar = files
        .iter()
        .fold(Tar::default(), |tar, (name, bytes)| tar.file(name, bytes));
    tar.end()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn layout(bench: &Bench, name: &str, files: &[(String, Vec<u8>)]) -> PathBuf {
    for (file, bytes) in files {
        bench.put(&format!("{name}/{file}"), bytes);
    }
    bench.path(name)
}

fn sibling_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
