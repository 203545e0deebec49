//! Which of the manifests in an OCI layout is the image: indexes nest, hold images for several
//! platforms, and hold what is no image at all (signatures, SBOMs, attestations).

use serde::Deserialize;

use super::error::{OciError, Result};
use super::manifest::{blob, parse, platform_of, Descriptor, OciManifest};
use super::platform::{Offered, Platform};
use super::store::Store;

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Indexes may nest; a real one does so once.
const DEPTH_MAX: usize = 4;
/// Real layouts have a few; each is read to know what it is.
const MANIFESTS_MAX: usize = 4096;
/// What BuildKit puts on attestations, which stand beside images in an index.
const ATTESTATION: &str = "vnd.docker.reference.type";
const NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_CONFIGS: [&str; 3] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    // old tools leave it out
    "",
];

/// An image in the layout.
struct Candidate {
    descriptor: Descriptor,
    offered: Offered,
}

/// The manifest that fits `wanted` best.
pub fn manifest(store: &Store, wanted: &Platform) -> Result<OciManifest> {
    let unfit = |why: String| OciError::unsupported("the OCI layout", why);
    let images = images(store, wanted)?;
    let best = images
        .iter()
        .filter_map(|image| wanted.rank(&image.offered))
        .max();
    let Some(best) = best else {
        let mut offered: Vec<_> = images
            .iter()
            .map(|image| image.offered.to_string())
            .collect();
        offered.sort();
        offered.dedup();
        return Err(unfit(match &offered[..] {
            [] => "it holds no image".into(),
            all => format!(
                "no manifest for {wanted} (the image has: {})",
                all.join(", ")
            ),
        }));
    };
    let found: Vec<_> = images
        .iter()
        .filter(|image| wanted.rank(&image.offered) == Some(best))
        .collect();
    match &found[..] {
        [image] => read(store, &image.descriptor),
        several => {
            let names: Vec<_> = several.iter().map(|image| image.name()).collect();
            Err(unfit(format!(
                "it holds {} images for {} ({}); one is wanted: copy it out with \
                 'skopeo copy oci:LAYOUT:NAME oci:ANOTHER'",
                several.len(),
                several[0].offered,
                names.join(", ")
            )))
        }
    }
}

impl Candidate {
    fn name(&self) -> &str {
        let name = self.descriptor.annotations.get(NAME);
        name.unwrap_or(&self.descriptor.digest)
    }
}

fn images(store: &Store, wanted: &Platform) -> Result<Vec<Candidate>> {
    let bytes = store
        .document("index.json")?
        .ok_or_else(|| OciError::corrupt("the OCI layout", "it has no index.json"))?;
    let index: Index = parse("index.json", &bytes)?;
    let mut left: Vec<_> = index.manifests.into_iter().map(|item| (item, 1)).collect();
    let mut found: Vec<Candidate> = Vec::new();
    let mut seen = 0;
    while let Some((item, depth)) = left.pop() {
        seen += 1;
        if depth > DEPTH_MAX || seen > MANIFESTS_MAX {
            let why = "its indexes nest without end";
            return Err(OciError::corrupt("the OCI layout", why));
        }
        if item.media_type.contains("index") || item.media_type.contains("manifest.list") {
            let nested: Index = parse(&item.digest, &blob(store, &item)?)?;
            left.extend(nested.manifests.into_iter().map(|item| (item, depth + 1)));
        } else if !found.iter().any(|f| f.descriptor.digest == item.digest) {
            found.extend(image(store, item, wanted)?);
        }
    }
    Ok(found)
}

/// `None` for what is no image.
fn image(store: &Store, item: Descriptor, wanted: &Platform) -> Result<Option<Candidate>> {
    let unknown = item.platform.as_ref().is_some_and(|p| p.os == "unknown");
    if unknown || item.artifact_type.is_some() || item.annotations.contains_key(ATTESTATION) {
        return Ok(None);
    }
    // A layout may hold only the image for one platform of those that its index names.
    if let Some(offered) = item.platform.clone().filter(|p| wanted.rank(p).is_none()) {
        return Ok(Some(Candidate {
            descriptor: item,
            offered,
        }));
    }
    let manifest = read(store, &item)?;
    let config = &manifest.config.media_type;
    if manifest.artifact_type.is_some() || !IMAGE_CONFIGS.contains(&&config[..]) {
        return Ok(None);
    }
    let mut offered = match item.platform.clone() {
        Some(offered) => offered,
        None => platform_of(store, &manifest)?,
    };
    if offered.os.is_empty() && offered.architecture.is_empty() {
        (offered.os, offered.architecture) = ("linux".into(), "amd64".into());
    }
    Ok(Some(Candidate {
        descriptor: item,
        offered,
    }))
}

fn read(store: &Store, item: &Descriptor) -> Result<OciManifest> {
    parse(&item.digest, &blob(store, item)?)
}
