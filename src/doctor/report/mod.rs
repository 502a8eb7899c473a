//! Diagnoses as text for people and as JSON for programs. Nothing here prints.

pub mod json;
pub mod text;

pub use text::Style;
