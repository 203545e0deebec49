//! Compression of the archive. Each form is one that the kernel unpacks and that holds neither
//! time nor name.

use std::io::{Read, Write};

use crate::Error;

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    None,
    Gzip,
    Zstd,
}

/// # Errors
/// The compressor fails, which happens only without memory.
pub fn pack(format: Format, archive: &[u8]) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::Archive(format!("cannot compress: {error}"));
    match format {
        Format::None => Ok(archive.to_vec()),
        Format::Gzip => {
            let best = flate2::Compression::best();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), best);
            encoder.write_all(archive).map_err(failed)?;
            encoder.finish().map_err(failed)
        }
        Format::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 19).map_err(failed)?;
            encoder.include_checksum(true).map_err(failed)?;
            encoder.write_all(archive).map_err(failed)?;
            encoder.finish().map_err(failed)
        }
    }
}

/// Undoes [`pack`]; the first bytes show the form.
///
/// # Errors
/// The bytes are broken or cut short.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>, Error> {
    let broken = |error: std::io::Error| Error::Archive(format!("cannot decompress: {error}"));
    let mut archive = Vec::new();
    if image.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(image)
            .read_to_end(&mut archive)
            .map_err(broken)?;
    } else if image.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        archive = zstd::decode_all(image).map_err(broken)?;
    } else {
        archive = image.to_vec();
    }
    Ok(archive)
}
