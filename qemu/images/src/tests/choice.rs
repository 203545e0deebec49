//! Which image of a layout is taken.

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A layout in the making: blobs by name.
#[derive(Default)]
struct Layout(Vec<(String, Vec<u8>)>);

impl Layout {
    fn blob(&mut self, bytes: &[u8], kind: &str) -> Value {
        let digest = Digest::of(bytes);
        self.0
            .push((crate::manifest::blob_name(&digest), bytes.to_vec()));
        json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()})
    }

    fn document(&mut self, document: &Value, kind: &str) -> Value {
        self.blob(document.to_string().as_bytes(), kind)
    }

    /// An image that runs `name`; `platform` as in an index.
    fn image(&mut self, name: &str, platform: Option<Value>) -> Value {
        let layer = Tar::default().file("f", b"f").end();
        let diff_id = Digest::of(&layer).to_string();
        let layer = self.blob(&layer, "application/vnd.oci.image.layer.v1.tar");
        let about = platform
            .clone()
            .unwrap_or(json!({"os": "linux", "architecture": "amd64"}));
        let mut config = json!({"config": {"Cmd": [name]}, "rootfs": {"diff_ids": [diff_id]}});
        config["os"] = about["os"].clone();
        config["architecture"] = about["architecture"].clone();
        let config = self.document(&config, CONFIG);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        let mut descriptor = self.document(&manifest, MANIFEST);
        if let Some(platform) = platform {
            descriptor["platform"] = platform;
        }
        descriptor
    }

    /// What is no image: a signature as an artifact.
    fn artifact(&mut self, kind: Option<&str>, config: &str) -> Value {
        let layer = self.blob(b"{}", "application/vnd.example.signature");
        let config = self.blob(b"{}", config);
        let mut manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        if let Some(kind) = kind {
            manifest["artifactType"] = json!(kind);
        }
        self.document(&manifest, MANIFEST)
    }

    fn nested(&mut self, manifests: &[Value]) -> Value {
        self.document(&json!({"schemaVersion": 2, "manifests": manifests}), INDEX)
    }

    /// The command of the image that is taken, or why none is.
    fn choose(mut self, manifests: &[Value], wanted: &str) -> Result<String, String> {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.0
            .push(("index.json".into(), index.to_string().into_bytes()));
        let bench = Bench::new();
        let path = layout(&bench, "layout", &self.0);
        let image = load(&path, &wanted.parse().unwrap(), &bench.cache);
        image
            .map(|image| image.config.cmd[0].clone())
            .map_err(|e| e.to_string())
    }
}

fn amd64(variant: Option<&str>) -> Option<Value> {
    let mut platform = json!({"os": "linux", "architecture": "amd64"});
    if let Some(variant) = variant {
        platform["variant"] = json!(variant);
    }
    Some(platform)
}

#[test]
fn the_best_variant_that_runs_is_taken() {
    let all = [None, Some("v2"), Some("v3")];
    let high = [Some("v2"), Some("v3")];
    for (offered, wanted, expected) in [
        (&all[..], "linux/amd64", Ok("none")),
        (&all[..], "linux/amd64/v2", Ok("v2")),
        (&all[..], "linux/amd64/v4", Ok("v3")),
        (&high[..], "linux/amd64/v2", Ok("v2")),
        (
            &high[..],
            "linux/amd64",
            Err("the image has: linux/amd64/v2, linux/amd64/v3"),
        ),
    ] {
        let mut store = Layout::default();
        let images: Vec<_> = offered
            .iter()
            .map(|variant| store.image(variant.unwrap_or("none"), amd64(*variant)))
            .collect();
        let nested = store.nested(&images);
        let found = store.choose(&[nested], wanted);
        match expected {
            Ok(name) => assert_eq!(found.as_deref(), Ok(name), "{offered:?} {wanted}"),
            Err(part) => {
                let error = found.unwrap_err();
                assert!(error.contains(part) && error.contains(wanted), "{error}");
            }
        }
    }
}

#[test]
fn what_is_no_image_is_passed_over() {
    let mut store = Layout::default();
    let image = store.image("ran", None);
    let by_manifest = store.artifact(
        Some("application/vnd.example"),
        "application/vnd.oci.empty.v1+json",
    );
    let by_config = store.artifact(None, "application/vnd.cncf.helm.config.v1+json");
    let mut by_descriptor = store.image("a", None);
    by_descriptor["artifactType"] = json!("application/vnd.example");
    let mut attestation = store.image(
        "b",
        Some(json!({"os": "unknown", "architecture": "unknown"})),
    );
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    // Named by the index, not in the layout.
    let absent = json!({
        "mediaType": MANIFEST, "digest": Digest::of(b"absent").to_string(), "size": 9,
        "platform": {"os": "linux", "architecture": "s390x"},
    });
    let again = image.clone();
    let all = [
        by_manifest,
        by_config,
        by_descriptor,
        attestation,
        absent,
        image,
        again,
    ];
    assert_eq!(store.choose(&all, "linux/amd64").as_deref(), Ok("ran"));

    let mut store = Layout::default();
    let alone = store.artifact(Some("application/vnd.example"), CONFIG);
    let error = store.choose(&[alone], "linux/amd64").unwrap_err();
    assert!(error.contains("holds no image"), "{error}");
}

#[test]
fn a_choice_between_equals_is_the_persons() {
    let mut store = Layout::default();
    let mut one = store.image("one", None);
    one["annotations"] = json!({"org.opencontainers.image.ref.name": "app:1"});
    let mut two = store.image("two", None);
    two["annotations"] = json!({"org.opencontainers.image.ref.name": "app:2"});
    let error = store.choose(&[one, two], "linux/amd64").unwrap_err();
    for part in ["2 images", "app:1", "app:2", "skopeo copy"] {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
}

#[test]
fn indexes_nest_within_bounds() {
    for (depth, fits) in [(2, true), (10, false)] {
        let mut store = Layout::default();
        let mut item = store.image("deep", amd64(None));
        for _ in 0..depth {
            item = store.nested(&[item]);
        }
        let found = store.choose(&[item], "linux/amd64");
        assert_eq!(found.is_ok(), fits, "{depth}: {found:?}");
    }
}
