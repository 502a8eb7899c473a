//! A bundle: `facts.json` and `diagnosis.json` in a tar archive, compressed by Zstandard (RFC 8878).
//!
//! Judging needs the facts alone; the diagnosis is what the program said where it was made. A bundle comes
//! from others, so all of it has bounds: a few kilobytes decompress to gigabytes, and a few megabytes of
//! JSON to more values than a memory holds.

use std::io::{self, Cursor, Write};

use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde::Deserialize;

use super::facts::{Facts, Observed, SCHEMA};
use super::finding::Diagnosis;
use super::json_error;
use crate::io::file::read_bounded;
use crate::text::json::Size;

const FACTS: &str = "facts.json";
const DIAGNOSIS: &str = "diagnosis.json";

/// Bytes of a bundle's file. A host of 50,000 firewall rules has a few megabytes.
pub const MOST_COMPRESSED: u64 = 16 << 20;
/// Bytes of the archive in it.
const MOST_BYTES: u64 = 64 << 20;
/// Bytes that the decompressor looks back: what RFC 8878 (3.1.1.1.2) recommends to support.
const MOST_WINDOW: u64 = 8 << 20;
/// Values and names of the facts, the firewall's text being one of them. A director of 10,000 VIPs has
/// half a million.
const MOST_VALUES: usize = 2_000_000;
/// Bytes of a text, the firewall's apart.
const LONGEST_TEXT: usize = 4096;
/// Every VIP is judged by all facts: the product of both.
const MOST_WORK: usize = 200_000_000;
/// The same for the backends of a director, each of which is looked for in few facts.
const MOST_WORK_OF_A_DIRECTOR: usize = 1_000_000_000;

/// Why a bundle cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not Zstandard, or cut off.
    #[error("not a whole Zstandard file, so no bundle of the doctor: {0}")]
    Compression(&'static str),
    /// No archive, or cut off.
    #[error("not a whole tar archive in it, so no bundle of the doctor: {0}")]
    Archive(String),
    /// An archive of something else.
    #[error("no {FACTS} in it: not a bundle of the doctor")]
    NoFacts,
    /// Facts that are none.
    #[error("{FACTS} in it is {0}")]
    Facts(String),
    /// Facts of another version.
    #[error("{FACTS} has schema {found}, this program reads schema {SCHEMA}")]
    Schema {
        /// Its version.
        found: u64,
    },
    /// More than is read.
    #[error("too large to be a bundle: {what}; the limit is {limit}")]
    TooLarge {
        /// What it has too much of.
        what: String,
        /// How much is read.
        limit: u64,
    },
    /// More than is written, since it could not be read again.
    #[error("what was seen is too much for a bundle: {0}")]
    TooMuch(Box<Self>),
    /// Values that are no JSON; none is known.
    #[error("cannot be written: {0}")]
    Write(String),
}

/// The bytes of a bundle.
///
/// # Errors
/// [`BundleError::TooMuch`]: of a machine of which more was seen than is read.
pub fn write(facts: &Facts, diagnoses: &[Diagnosis]) -> Result<Vec<u8>, BundleError> {
    let broken = |error: &dyn std::fmt::Display| BundleError::Write(error.to_string());
    let mut archive = tar::Builder::new(Vec::new());
    let facts = serde_json::to_vec_pretty(facts).map_err(|error| broken(&error))?;
    bounded(&facts).map_err(|error| BundleError::TooMuch(Box::new(error)))?;
    let diagnoses = serde_json::to_vec_pretty(diagnoses).map_err(|error| broken(&error))?;
    for (name, content) in [(FACTS, facts), (DIAGNOSIS, diagnoses)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600); // addresses and firewall rules are nobody else's business
        archive
            .append_data(&mut header, name, content.as_slice())
            .map_err(|error| broken(&error))?;
    }
    let archive = archive.into_inner().map_err(|error| broken(&error))?;
    if let Some(error) = beyond("the archive, in bytes", archive.len() as u64, MOST_BYTES) {
        return Err(BundleError::TooMuch(Box::new(error)));
    }
    Ok(compress_to_vec(
        archive.as_slice(),
        CompressionLevel::Fastest,
    ))
}

/// The facts of a bundle.
///
/// # Errors
/// [`BundleError`]: it is cut off, something else, of another schema, or more than is read.
pub fn read(bytes: &[u8]) -> Result<Facts, BundleError> {
    if let Some(error) = beyond("the file, in bytes", bytes.len() as u64, MOST_COMPRESSED) {
        return Err(error);
    }
    let archive = decompressed(bytes)?;
    let content = member(&archive)?;
    let size = bounded(content)?;
    let schema: Versioned = parsed(content)?;
    match schema.schema {
        Some(found) if found != u64::from(SCHEMA) => return Err(BundleError::Schema { found }),
        Some(_) | None => {}
    }
    let facts = parsed(content)?;
    judgeable(facts, size)
}

/// What tells a version, whatever else there is.
#[derive(Deserialize)]
struct Versioned {
    schema: Option<u64>,
}

fn parsed<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, BundleError> {
    serde_json::from_slice(content).map_err(|error| BundleError::Facts(json_error::text(&error)))
}

fn beyond(what: &str, found: u64, limit: u64) -> Option<BundleError> {
    (found > limit).then(|| BundleError::TooLarge {
        what: format!("{what}: {found}"),
        limit,
    })
}

/// What a file is whose beginning is not that of a bundle, or that does not decompress.
fn instead(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "it is empty",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is damaged or cut off",
        [0x1f, 0x8b, ..] => "it is a gzip file",
        [b'{' | b'[', ..] => "it begins like JSON; what --json printed goes to --peer",
        _ => "it is something else",
    }
}

fn decompressed(bytes: &[u8]) -> Result<Vec<u8>, BundleError> {
    let broken = || BundleError::Compression(instead(bytes));
    let decoder = StreamingDecoder::new_with_max_window_size(Cursor::new(bytes), MOST_WINDOW);
    let decoder = decoder.map_err(|error| {
        if let FrameDecoderError::WindowSizeTooBig { requested, max } = error {
            let what = format!("the window of the compression, in bytes: {requested}");
            BundleError::TooLarge { what, limit: max }
        } else {
            broken()
        }
    })?;
    read_bounded(decoder, MOST_BYTES).map_err(|error| {
        if error.kind() == io::ErrorKind::FileTooLarge {
            let what = "the archive, in bytes: more".to_owned();
            BundleError::TooLarge {
                what,
                limit: MOST_BYTES,
            }
        } else {
            broken()
        }
    })
}

/// The facts' bytes in the archive. Its headers are taken as they are: a bundle needs no extension of tar,
/// whose long names and sparse files have sizes of their own.
fn member(archive: &[u8]) -> Result<&[u8], BundleError> {
    let broken = |error: io::Error| BundleError::Archive(error.to_string());
    let mut reader = tar::Archive::new(archive);
    for entry in reader.entries().map_err(broken)?.raw(true) {
        let entry = entry.map_err(broken)?;
        let name = entry.path_bytes();
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        if name != FACTS.as_bytes() || !entry.header().entry_type().is_file() {
            continue;
        }
        let start = usize::try_from(entry.raw_file_position()).unwrap_or(usize::MAX);
        let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        let content = archive.get(start..).and_then(|rest| rest.get(..size));
        return content.ok_or_else(|| BundleError::Archive("it ends too early".to_owned()));
    }
    Err(BundleError::NoFacts)
}

fn bounded(facts: &[u8]) -> Result<Size, BundleError> {
    let size = Size::of(facts);
    let values = (size.values as u64, MOST_VALUES as u64);
    match beyond("the values in facts.json", values.0, values.1) {
        Some(error) => Err(error),
        None => Ok(size),
    }
}

/// Facts that are judged in bounded time and memory, although all VIPs look at all of them, and findings
/// repeat their texts.
fn judgeable(mut facts: Facts, size: Size) -> Result<Facts, BundleError> {
    let backends = facts
        .director
        .as_ref()
        .map_or(0, |director| director.backends.len());
    for (what, count, most) in [
        ("VIPs", facts.targets.len(), MOST_WORK),
        ("backends", backends, MOST_WORK_OF_A_DIRECTOR),
    ] {
        let limit = (most / size.values.max(1)) as u64;
        let what = format!("{what}, with {} values in facts.json", size.values);
        if let Some(error) = beyond(&what, count as u64, limit) {
            return Err(error);
        }
    }
    let firewall = std::mem::take(&mut facts.firewall);
    let reasons = [firewall.nft.unseen()]
        .into_iter()
        .chain(firewall.iptables.values().map(Observed::unseen));
    let texts = firewall
        .iptables
        .keys()
        .map(String::as_str)
        .chain(reasons.flatten());
    let mut longest = Longest(Size::default());
    serde_json::to_writer(&mut longest, &facts)
        .map_err(|error| BundleError::Write(error.to_string()))?;
    let longest = texts
        .map(str::len)
        .max()
        .unwrap_or_default()
        .max(longest.0.longest);
    facts.firewall = firewall;
    match beyond(
        "a text in facts.json, in bytes",
        longest as u64,
        LONGEST_TEXT as u64,
    ) {
        Some(error) => Err(error),
        None => Ok(facts),
    }
}

/// Measures what is written, and keeps nothing.
struct Longest(Size);

impl Write for Longest {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.0.feed(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

    fn packed(archive: &[u8]) -> Vec<u8> {
        compress_to_vec(archive, CompressionLevel::Fastest)
    }

    fn entry(kind: tar::EntryType, name: &str, size: u64, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_cksum();
        let padding = content.len().next_multiple_of(512) - content.len();
        [header.as_bytes().as_slice(), content, &vec![0; padding]].concat()
    }

    /// As tar programs pack an unpacked bundle, and as none does.
    #[test]
    fn tricks_of_tar() {
        use tar::EntryType;
        let json = serde_json::to_vec(&facts()).unwrap();
        let size = json.len() as u64;
        let whole = |name| entry(EntryType::Regular, name, size, &json);
        let pax = entry(
            EntryType::XHeader,
            "x",
            30,
            b"30 path=../../../etc/passwd-x\n",
        );
        let long = entry(EntryType::GNULongName, "././@LongLink", 5, b"other");
        for archive in [
            whole("./facts.json"),
            [
                entry(EntryType::Directory, "./", 0, b""),
                whole("facts.json"),
            ]
            .concat(),
            [pax, whole("facts.json")].concat(),
            [long, whole("facts.json")].concat(),
        ] {
            assert_eq!(read(&packed(&archive)).unwrap(), facts());
        }
        for size in [size + 512, 1 << 40, u64::MAX >> 1] {
            let archive = entry(EntryType::Regular, "facts.json", size, &json);
            let error = read(&packed(&archive)).unwrap_err();
            assert!(matches!(error, BundleError::Archive(_)), "{size}: {error}");
        }
        for kind in [
            EntryType::GNUSparse,
            EntryType::Link,
            EntryType::Symlink,
            EntryType::Directory,
        ] {
            let archive = entry(kind, "facts.json", size, &json);
            let error = read(&packed(&archive)).unwrap_err();
            assert!(matches!(error, BundleError::NoFacts), "{kind:?}: {error}");
        }
    }

    fn refused(facts: &Facts) -> String {
        let json = serde_json::to_vec(facts).unwrap();
        let archive = entry(tar::EntryType::Regular, FACTS, json.len() as u64, &json);
        read(&packed(&archive)).unwrap_err().to_string()
    }

    #[test]
    fn limits_are_named() {
        let mut named = facts();
        named.kernel = "x".repeat(LONGEST_TEXT + 1);
        assert_eq!(
            refused(&named),
            "too large to be a bundle: a text in facts.json, in bytes: 4097; the limit is 4096"
        );
        let mut unseen = facts();
        unseen.firewall.nft = Observed::Unseen("x".repeat(LONGEST_TEXT + 1));
        assert!(refused(&unseen).contains("a text in facts.json"));
        let mut rules = facts();
        rules.firewall.nft = Observed::Seen("x".repeat(LONGEST_TEXT + 1));
        assert_eq!(read(&write(&rules, &[]).unwrap()).unwrap(), rules);
        let error = bounded(&vec![b'['; MOST_VALUES]).unwrap_err();
        assert!(
            error.to_string().contains("the limit is 2000000"),
            "{error}"
        );
    }

    /// What a director of 10,000 VIPs sees is less than the limits, by far.
    #[test]
    fn a_large_director_fits() {
        use crate::doctor::facts::{
            BackendOnDirector, DirectorFacts, Encap, Route, RouteAnswer, VipOnDirector,
        };
        let route = || {
            RouteAnswer::Route(Route {
                kind: "unicast".to_owned(),
                ..Route::default()
            })
        };
        let address = |number: u32| std::net::Ipv4Addr::from(0x0a00_0000 + number).into();
        let mut facts = facts();
        facts.director = Some(DirectorFacts {
            vips: (0..10_000)
                .map(|number| {
                    (
                        address(number),
                        VipOnDirector {
                            services: vec![(6, Some(80))],
                            clients_by: Some("eth0".into()),
                            route: route(),
                            own_answers: route(),
                            on_link: None,
                        },
                    )
                })
                .collect(),
            backends: (0..1000)
                .map(|number| {
                    let backend = BackendOnDirector {
                        route: route(),
                        mtu: Some(1500),
                        send: Observed::Seen(None),
                        encap: Encap::Ipip,
                        past_filters: false,
                    };
                    (address(number), backend)
                })
                .collect(),
            ..DirectorFacts::default()
        });
        let values = Size::of(&serde_json::to_vec(&facts).unwrap()).values;
        assert!((400_000..MOST_VALUES / 3).contains(&values), "{values}");
        assert_eq!(read(&write(&facts, &[]).unwrap()).unwrap(), facts);
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
