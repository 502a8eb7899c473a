//! A bundle: `facts.json` and `diagnosis.json` in a tar archive, compressed by Zstandard (RFC 8878).
//!
//! Judging needs the facts alone; the diagnosis is what the program said where it was made.

use std::io::{Cursor, Read};

use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::facts::{Facts, SCHEMA};
use super::finding::Diagnosis;

const FACTS: &str = "facts.json";
const DIAGNOSIS: &str = "diagnosis.json";
/// More than any machine's facts; keeps a hostile archive from filling the memory.
const MOST_BYTES: u64 = 64 << 20;

/// Why a bundle cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not Zstandard, or cut off.
    #[error("not a whole Zstandard file: {0}")]
    Compression(String),
    /// No archive, or cut off.
    #[error("not a whole tar archive: {0}")]
    Archive(#[from] std::io::Error),
    /// An archive of something else.
    #[error("no {FACTS} in it: not a bundle of the doctor")]
    NoFacts,
    /// Facts that are none.
    #[error("{FACTS}: {0}")]
    Facts(#[from] serde_json::Error),
    /// Facts of another version.
    #[error("{FACTS} has schema {found}, this program reads schema {SCHEMA}")]
    Schema {
        /// Its version.
        found: u64,
    },
}

/// The bytes of a bundle.
///
/// # Errors
/// A value that cannot be serialised; none is known.
pub fn write(facts: &Facts, diagnoses: &[Diagnosis]) -> Result<Vec<u8>, BundleError> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [
        (FACTS, serde_json::to_vec_pretty(facts)?),
        (DIAGNOSIS, serde_json::to_vec_pretty(diagnoses)?),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600); // addresses and firewall rules are nobody else's business
        archive.append_data(&mut header, name, content.as_slice())?;
    }
    let archive = archive.into_inner()?;
    Ok(compress_to_vec(
        archive.as_slice(),
        CompressionLevel::Fastest,
    ))
}

/// The facts of a bundle.
///
/// # Errors
/// [`BundleError`]: it is cut off, something else, or of another schema.
pub fn read(bytes: &[u8]) -> Result<Facts, BundleError> {
    let content = member(&decompressed(bytes)?)?;
    let value: serde_json::Value = serde_json::from_slice(&content)?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(found) if found != u64::from(SCHEMA) => Err(BundleError::Schema { found }),
        Some(_) | None => Ok(serde_json::from_value(value)?),
    }
}

fn decompressed(bytes: &[u8]) -> Result<Vec<u8>, BundleError> {
    let broken = |error: &dyn std::fmt::Display| BundleError::Compression(error.to_string());
    let decoder = StreamingDecoder::new(Cursor::new(bytes)).map_err(|error| broken(&error))?;
    let mut archive = Vec::new();
    decoder
        .take(MOST_BYTES)
        .read_to_end(&mut archive)
        .map_err(|error| broken(&error))?;
    Ok(archive)
}

fn member(archive: &[u8]) -> Result<Vec<u8>, BundleError> {
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if entry.path_bytes().as_ref() != FACTS.as_bytes() {
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        if content.len() < size {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        return Ok(content);
    }
    Err(BundleError::NoFacts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let mut facts = Facts {
            schema: SCHEMA,
            kernel: "6.18.5".to_owned(),
            ..Facts::default()
        };
        for number in 0..2000_i64 {
            let name = format!("net.ipv4.conf.eth{number}.rp_filter");
            facts.sysctls.insert(name, number * 7919 % 3);
        }
        facts
    }

    #[test]
    fn round_trip() {
        let bytes = write(&facts(), &[]).unwrap();
        assert_eq!(read(&bytes).unwrap(), facts());
    }

    #[test]
    fn half_written() {
        let bytes = write(&facts(), &[]).unwrap();
        for length in [0, 3, 20, bytes.len() / 2, bytes.len() - 1] {
            let error = read(&bytes[..length]).unwrap_err();
            assert!(
                matches!(error, BundleError::Compression(_)),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn another_schema() {
        let other = Facts {
            schema: 7,
            ..facts()
        };
        let error = read(&write(&other, &[]).unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "facts.json has schema 7, this program reads schema 1"
        );
    }

    #[test]
    fn something_else() {
        let error = read(b"{\"schema\":1}").unwrap_err();
        assert!(matches!(error, BundleError::Compression(_)), "{error}");
        let empty = tar::Builder::new(Vec::new()).into_inner().unwrap();
        let bytes = compress_to_vec(empty.as_slice(), CompressionLevel::Fastest);
        assert!(matches!(read(&bytes).unwrap_err(), BundleError::NoFacts));
    }
}
