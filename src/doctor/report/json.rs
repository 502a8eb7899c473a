//! The JSON document: the worst diagnosis, with the others of the machine beside it.

use serde::{Deserialize, Serialize};

use crate::doctor::finding::{Diagnosis, SCHEMA};
use crate::text::plain;

/// What `tunlb doctor --json` prints, and what `--peer` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The worst one.
    #[serde(flatten)]
    pub worst: Diagnosis,
    /// The other VIPs of the machine, the worse first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Diagnosis>,
}

/// Why a text is no [`Document`].
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// No JSON of that shape.
    #[error("not what `tunlb doctor --json` prints: {0}")]
    Shape(#[from] serde_json::Error),
    /// From another version.
    #[error("its schema is {0}, this program reads schema {SCHEMA}")]
    Schema(u32),
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
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        let schema = value.get("schema").and_then(serde_json::Value::as_u64);
        if let Some(schema) = schema.filter(|schema| *schema != u64::from(SCHEMA)) {
            return Err(DocumentError::Schema(
                u32::try_from(schema).unwrap_or(u32::MAX),
            ));
        }
        Ok(serde_json::from_value(value)?)
    }

    /// The document on one line, with its line end.
    ///
    /// # Errors
    /// A value that JSON cannot express; none is known.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        Ok(plain::json(&serde_json::to_string(self)?) + "\n")
    }

    /// All diagnoses, the worst first.
    pub fn diagnoses(&self) -> impl Iterator<Item = &Diagnosis> {
        std::iter::once(&self.worst).chain(&self.others)
    }
}
