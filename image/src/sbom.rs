//! The bill of materials of what ships (CycloneDX 1.5, JSON), and the licences that come with it.
//!
//! ```text
//! cargo tree      which crates are linked into the guest, for its target and features ─┐
//! cargo metadata  what each of them is, under which licence, and where its files are  ─┼→ sbom, licences
//! Cargo.lock      the hash of the archive each was taken from                         ─┤
//! others          what is no crate: the kernel, the toolchain's own libraries         ─┘
//! ```
//!
//! The first three are read in [`crate::crates`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use crate::crates::{Crates, Key, Linked, Package};
use crate::{id, Error};

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

impl Crates {
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
    use crate::crates::Sources;

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
