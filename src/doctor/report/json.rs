//! The JSON document: the worst diagnosis, with the others of the machine beside it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::doctor::facts::Role;
use crate::doctor::finding::{Diagnosis, Finding, SCHEMA, Stage, Verdict};
use crate::doctor::json_error;
use crate::text::json;

/// Values and names in a document: of 38 checks each VIP has about a thousand.
const MOST_VALUES: usize = 2_000_000;

/// What `tunlb doctor --json` prints, and what `--peer` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Document {
    /// The worst one.
    #[serde(flatten)]
    pub worst: Diagnosis,
    /// The other VIPs of the machine, the worse first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Diagnosis>,
}

/// Why a text is no [`Document`].
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// No JSON of that shape.
    #[error("not what `tunlb doctor --json` prints, but {0}")]
    Shape(String),
    /// From another version.
    #[error("its schema is {0}, this program reads schema {SCHEMA}")]
    Schema(u64),
    /// More than any machine's.
    #[error("not what `tunlb doctor --json` prints: {found} values; the limit is {MOST_VALUES}")]
    TooLarge {
        /// Its values and names.
        found: usize,
    },
}

/// What tells a version, whatever else there is.
#[derive(Deserialize)]
struct Versioned {
    schema: Option<u64>,
}

/// A [`Document`] as it is read: a flattened member would be held in memory as values of any kind.
#[derive(Deserialize)]
struct Parts {
    schema: u32,
    role: Role,
    vip: Option<String>,
    client: Option<IpAddr>,
    verdict: Verdict,
    path: Vec<Stage>,
    checks: Vec<Finding>,
    #[serde(default)]
    others: Vec<Diagnosis>,
}

impl From<Parts> for Document {
    fn from(parts: Parts) -> Self {
        Self {
            worst: Diagnosis {
                schema: parts.schema,
                role: parts.role,
                vip: parts.vip,
                client: parts.client,
                verdict: parts.verdict,
                path: parts.path,
                checks: parts.checks,
            },
            others: parts.others,
        }
    }
}

fn parsed<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, DocumentError> {
    serde_json::from_slice(text).map_err(|error| DocumentError::Shape(json_error::text(&error)))
}

impl Document {
    /// All diagnoses of a machine, the worst first; nothing where there are none.
    #[must_use]
    pub fn new(diagnoses: &[Diagnosis]) -> Option<Self> {
        let (worst, others) = diagnoses.split_first()?;
        Some(Self {
            worst: worst.clone(),
            others: others.to_vec(),
        })
    }

    /// Reads what another run printed.
    ///
    /// # Errors
    /// [`DocumentError`]: it is none, or of another schema.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, DocumentError> {
        let text = text.as_ref();
        let found = json::Size::of(text).values;
        if found > MOST_VALUES {
            return Err(DocumentError::TooLarge { found });
        }
        let schema = parsed::<Versioned>(text)?.schema;
        match schema.filter(|schema| *schema != u64::from(SCHEMA)) {
            Some(schema) => Err(DocumentError::Schema(schema)),
            None => Ok(parsed::<Parts>(text)?.into()),
        }
    }

    /// The document on one line, with its line end.
    ///
    /// # Errors
    /// A value that JSON cannot express; none is known.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        Ok(json::printable(&serde_json::to_string(self)?) + "\n")
    }

    /// All diagnoses, the worst first.
    pub fn diagnoses(&self) -> impl Iterator<Item = &Diagnosis> {
        std::iter::once(&self.worst).chain(&self.others)
    }
}
