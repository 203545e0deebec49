//! The bill of materials of what ships (CycloneDX 1.5, JSON), and the licences that come with it.
//!
//! ```text
//! cargo tree      which crates are linked into the guest, for its target and features ─┐
//! cargo metadata  what each of them is, under which licence, and where its files are  ─┼→ sbom, licences
//! Cargo.lock      the hash of the archive each was taken from                         ─┤
//! others          what is no crate: the kernel, the toolchain's own libraries         ─┘
//! ```
//!
//! `cargo metadata` alone lists too much, because it merges the features of the whole workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::{id, Error};

/// Everything that cargo says about the crates.
pub struct Sources<'a> {
    /// `cargo tree --prefix none --format {p}`
    pub tree: &'a str,
    /// `cargo metadata --format-version 1`
    pub metadata: &'a str,
    pub lock: &'a str,
}

/// What is in the shipped files and is no crate.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    pub name: String,
    pub version: String,
    /// Of CycloneDX: `library`, `operating-system`.
    pub r#type: String,
    /// As SPDX writes it.
    pub license: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purl: Option<String>,
    /// Of the archive that it is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where its source is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// The thing the bill is about.
pub struct Product<'a> {
    pub name: &'a str,
    pub version: &'a str,
    /// RFC 3339.
    pub date: &'a str,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    /// Of the registry; `None` for the crates of this workspace.
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<ResolveNode>,
}

#[derive(Deserialize)]
struct ResolveNode {
    id: String,
    dependencies: Vec<String>,
}

/// Name and version.
type Key = (String, String);

/// The crates that are linked, with what cargo knows of them.
pub struct Crates {
    linked: BTreeMap<Key, Linked>,
}

struct Linked {
    package: Package,
    checksum: Option<String>,
    depends: BTreeSet<Key>,
}

impl Crates {
    /// # Errors
    /// Cargo's output is not understood, or its parts do not fit together.
    pub fn read(sources: &Sources<'_>) -> Result<Self, Error> {
        let wrong = |what: String| Error::Archive(format!("the bill of materials: {what}"));
        let metadata: Metadata = serde_json::from_str(sources.metadata)
            .map_err(|error| wrong(format!("cargo metadata: {error}")))?;
        let wanted = linked(sources.tree);
        let checksums = checksums(sources.lock);
        let mut keys: BTreeMap<String, Key> = BTreeMap::new();
        let mut linked = BTreeMap::new();
        for package in metadata.packages {
            let key = (package.name.clone(), package.version.clone());
            if !wanted.contains(&key) {
                continue;
            }
            keys.insert(package.id.clone(), key.clone());
            let crate_ = Linked {
                checksum: checksums.get(&key).cloned(),
                package,
                depends: BTreeSet::new(),
            };
            linked.insert(key, crate_);
        }
        if let Some((name, version)) = wanted.iter().find(|key| !linked.contains_key(*key)) {
            return Err(wrong(format!("cargo metadata has no {name} {version}")));
        }
        if linked.is_empty() {
            return Err(wrong("cargo tree names no crate".into()));
        }
        for node in metadata.resolve.nodes {
            let Some(from) = keys.get(&node.id).and_then(|key| linked.get_mut(key)) else {
                continue;
            };
            let depends = node.dependencies.iter().filter_map(|id| keys.get(id));
            from.depends = depends.cloned().collect();
        }
        Ok(Self { linked })
    }

    /// The bill as a CycloneDX document. The same content has the same serial number.
    pub fn bill(&self, product: &Product<'_>, others: &[Other]) -> Value {
        let crates = self.linked.iter().map(component);
        let others = others.iter().map(|other| {
            let mut component = json!({
                "type": other.r#type,
                "bom-ref": format!("{}@{}", other.name, other.version),
                "name": other.name,
                "version": other.version,
                "licenses": [{"expression": other.license}],
            });
            put(&mut component, "purl", other.purl.as_deref());
            hash(&mut component, other.sha256.as_deref());
            reference(&mut component, "distribution", other.source.as_deref());
            component
        });
        let components: Vec<Value> = crates.chain(others).collect();
        let dependencies: Vec<Value> = self
            .linked
            .iter()
            .map(|(key, linked)| {
                let on: Vec<String> = linked.depends.iter().map(name).collect();
                json!({"ref": name(key), "dependsOn": on})
            })
            .collect();
        let mut bill = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "serialNumber": "",
            "version": 1,
            "metadata": {
                "timestamp": product.date,
                "component": {
                    "type": "firmware",
                    "bom-ref": product.name,
                    "name": product.name,
                    "version": product.version,
                },
            },
            "components": components,
            "dependencies": dependencies,
        });
        let serial = id("sbom", bill.to_string().as_bytes());
        bill["serialNumber"] = format!("urn:uuid:{serial}").into();
        bill
    }

    /// The licence texts that the crates bring along, each once, under the names of its crates.
    ///
    /// # Errors
    /// A crate's directory cannot be read.
    pub fn licences(&self) -> Result<String, Error> {
        let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut silent = BTreeSet::new();
        for (key, linked) in &self.linked {
            if linked.package.source.is_none() {
                continue;
            }
            let licence = expression(&linked.package).unwrap_or_else(|| "as it says".into());
            let label = format!("{} {} ({licence})", key.0, key.1);
            let found = texts_of(&linked.package.manifest_path)?;
            if found.is_empty() {
                silent.insert(label);
                continue;
            }
            for text in found {
                texts.entry(text).or_default().insert(label.clone());
            }
        }
        // By the first crate that has it, not by the text.
        let mut sections: Vec<_> = texts.into_iter().map(|(text, who)| (who, text)).collect();
        sections.sort();
        let rule = "=".repeat(80);
        let mut all = String::from(
            "Licences of the crates that are linked into the guest's program (/init).\n",
        );
        for (who, text) in sections {
            let who: Vec<String> = who.into_iter().collect();
            all += &format!("\n{rule}\n{}\n{rule}\n\n{text}\n", who.join("\n"));
        }
        if !silent.is_empty() {
            let silent: Vec<String> = silent.into_iter().collect();
            all += &format!(
                "\n{rule}\nWithout a text of their own; that of their licence is above:\n{}\n",
                silent.join("\n")
            );
        }
        Ok(all)
    }
}

/// The crates of `cargo tree`'s output: `libc v0.2.1`, perhaps followed by a place or a mark.
fn linked(tree: &str) -> BTreeSet<Key> {
    tree.lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().split_once(" v")?;
            let version = rest.split_whitespace().next()?;
            Some((name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// Cargo.lock: blocks of `key = "value"` lines.
fn checksums(lock: &str) -> BTreeMap<Key, String> {
    let blocks = lock.split("[[package]]").skip(1);
    blocks
        .filter_map(|block| {
            let value = |key: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(key))?;
                Some(line.strip_prefix(" = ")?.trim_matches('"').to_owned())
            };
            Some(((value("name")?, value("version")?), value("checksum")?))
        })
        .collect()
}

fn component((key, linked): (&Key, &Linked)) -> Value {
    let (package, (name_, version)) = (&linked.package, key);
    let mut component = json!({
        "type": "library",
        "bom-ref": name(key),
        "name": name_,
        "version": version,
    });
    let description = package.description.as_deref().map(str::trim);
    put(&mut component, "description", description);
    component["licenses"] = match (expression(package), &package.license_file) {
        (Some(expression), _) => json!([{"expression": expression}]),
        (None, Some(file)) => json!([{"license": {"name": format!("the crate's file {file}")}}]),
        (None, None) => json!([{"license": {"name": "unknown"}}]),
    };
    if package.source.is_some() {
        let purl = format!("pkg:cargo/{name_}@{version}");
        put(&mut component, "purl", Some(&purl));
    }
    hash(&mut component, linked.checksum.as_deref());
    reference(&mut component, "vcs", package.repository.as_deref());
    component
}

fn name((name, version): &Key) -> String {
    format!("{name}@{version}")
}

/// As SPDX writes it; a slash is how crates said `OR` once.
fn expression(package: &Package) -> Option<String> {
    let license = package.license.as_ref()?;
    Some(
        license
            .split('/')
            .map(str::trim)
            .collect::<Vec<_>>()
            .join(" OR "),
    )
}

fn put(component: &mut Value, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        component[key] = value.into();
    }
}

fn hash(component: &mut Value, sha256: Option<&str>) {
    if let Some(sha256) = sha256 {
        component["hashes"] = json!([{"alg": "SHA-256", "content": sha256}]);
    }
}

fn reference(component: &mut Value, kind: &str, url: Option<&str>) {
    if let Some(url) = url {
        component["externalReferences"] = json!([{"type": kind, "url": url}]);
    }
}

/// The licence texts beside a manifest.
fn texts_of(manifest: &Path) -> Result<BTreeSet<String>, Error> {
    const BEGINNINGS: [&str; 6] = [
        "LICENSE",
        "LICENCE",
        "COPYING",
        "COPYRIGHT",
        "NOTICE",
        "UNLICENSE",
    ];
    let dir = manifest.parent().unwrap_or(Path::new("/"));
    let mut texts = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("cannot read", dir))? {
        let path = entry.map_err(Error::io("cannot read", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_uppercase();
        if path.is_file() && BEGINNINGS.iter().any(|start| name.starts_with(start)) {
            let text = std::fs::read(&path).map_err(Error::io("cannot read", &path))?;
            let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
            texts.insert(text.trim().to_owned());
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
                        checksum = \"aa\"\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
    const TREE: &str = "own v0.1.0 (/somewhere/own)\na v1.0.0\na v1.0.0 (*)\n";

    fn metadata(place: &str) -> String {
        let package = |name: &str, version: &str, more: Value| {
            let mut package = json!({"id": format!("{place}#{name}@{version}"), "name": name,
                "version": version, "license": "MIT/Apache-2.0", "source": null,
                "manifest_path": format!("{place}/{name}/Cargo.toml")});
            for (key, value) in more.as_object().unwrap() {
                package[key] = value.clone();
            }
            package
        };
        let id = |name: &str| format!("{place}#{name}");
        json!({
            "packages": [
                package("own", "0.1.0", json!({})),
                package("a", "1.0.0", json!({"source": "registry", "description": "An a.\n"})),
                package("a", "2.0.0", json!({"source": "registry"})),
                package("macros", "1.0.0", json!({"source": "registry"})),
            ],
            "resolve": {"nodes": [
                {"id": id("own@0.1.0"), "dependencies": [id("a@1.0.0"), id("macros@1.0.0")]},
                {"id": id("a@1.0.0"), "dependencies": []},
            ]},
        })
        .to_string()
    }

    fn bill(place: &str, tree: &str) -> Result<Value, Error> {
        let metadata = metadata(place);
        let sources = Sources {
            tree,
            metadata: &metadata,
            lock: LOCK,
        };
        let product = Product {
            name: "it",
            version: "1",
            date: "2026-01-01T00:00:00Z",
        };
        let kernel = Other {
            name: "linux".into(),
            version: "6".into(),
            r#type: "operating-system".into(),
            license: "GPL-2.0-only".into(),
            purl: None,
            sha256: Some("bb".into()),
            source: Some("https://example.org/linux".into()),
        };
        Ok(Crates::read(&sources)?.bill(&product, &[kernel]))
    }

    #[test]
    fn only_linked_crates_are_named_with_licence_and_hash() {
        let bill = bill("/one", TREE).unwrap();
        let names: Vec<&str> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| component["bom-ref"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["a@1.0.0", "own@0.1.0", "linux@6"]);
        let a = &bill["components"][0];
        assert_eq!(a["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(a["hashes"][0]["content"], "aa");
        assert_eq!(a["purl"], "pkg:cargo/a@1.0.0");
        assert_eq!(a["description"], "An a.");
        let own = &bill["dependencies"][1];
        assert_eq!(*own, json!({"ref": "own@0.1.0", "dependsOn": ["a@1.0.0"]}));
        assert_eq!(bill["components"][2]["hashes"][0]["content"], "bb");
    }

    #[test]
    fn the_place_of_the_sources_does_not_show() {
        assert_eq!(
            bill("/one", TREE).unwrap(),
            bill("/another/place", TREE).unwrap()
        );
    }

    #[test]
    fn what_cargo_does_not_know_is_an_error() {
        let error = bill("/one", "b v1.0.0\n").unwrap_err().to_string();
        assert!(error.contains("has no b 1.0.0"), "{error}");
        assert!(bill("/one", "").is_err());
    }
}
