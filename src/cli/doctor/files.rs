//! The doctor's files: bundles and the other end's document. `-` is standard input or output.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cli::output::{is_stdout, stdout_for_packets};
use crate::doctor::bundle::{self, MOST_COMPRESSED};
use crate::doctor::facts::Facts;
use crate::doctor::finding::Diagnosis;
use crate::doctor::report::json::Document;
use crate::io::file::{create_private, read_bounded, wait_for_reader};
use crate::text::plain::plain;

/// Bytes of the other end's document: of 38 checks each VIP has some 20,000.
const MOST_OF_A_PEER: u64 = 16 << 20;

/// The facts of a bundle.
///
/// # Errors
/// It cannot be read, or is none.
pub(super) fn facts(path: &Path) -> Result<Facts> {
    let bytes = all(path, MOST_COMPRESSED)?;
    bundle::read(&bytes).with_context(|| format!("cannot use {}", shown(path)))
}

/// What `--json` printed on the other end, and how many bytes it has.
///
/// # Errors
/// It cannot be read, or is none.
pub(super) fn document(path: &Path) -> Result<(Document, usize)> {
    let bytes = all(path, MOST_OF_A_PEER)?;
    let document =
        Document::parse(&bytes).with_context(|| format!("cannot use {}", shown(path)))?;
    Ok((document, bytes.len()))
}

fn all(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let read = if is_stdin(path) {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            bail!("- is standard input, and that is a terminal; redirect it, such as `< FILE`");
        }
        read_bounded(stdin.lock(), limit)
    } else {
        File::open(path).and_then(|file| read_bounded(file, limit))
    };
    read.map_err(|error| {
        if error.kind() == io::ErrorKind::FileTooLarge {
            anyhow!("more than {limit} bytes, the limit of such a file")
        } else {
            error.into()
        }
    })
    .with_context(|| format!("cannot read {}", shown(path)))
}

/// Whether a path stands for standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// A path in a message.
pub(super) fn shown(path: &Path) -> String {
    match path.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => plain(&path.to_string_lossy()),
    }
}

/// A bundle that is to be written. Its file is there before anything is looked at, so that no observation
/// is lost for the want of a name; where nothing comes of it, it goes away.
#[derive(Debug)]
pub(super) struct NewBundle {
    file: File,
    path: PathBuf,
    is_done: bool,
}

impl NewBundle {
    /// Creates the file, for its owner only.
    ///
    /// # Errors
    /// It is there already, or cannot be created; standard output is a terminal.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = if is_stdout(path) {
            stdout_for_packets()?
        } else {
            created(path)?
        };
        if file.is_terminal() {
            bail!(
                "{} is a terminal, and a bundle is binary; name a file",
                shown(path)
            );
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            is_done: false,
        })
    }

    /// Writes what was seen and what it came to.
    ///
    /// # Errors
    /// It cannot be written, or is more than a bundle holds.
    pub(super) fn write(mut self, facts: &Facts, diagnoses: &[Diagnosis]) -> Result<()> {
        let bytes = bundle::write(facts, diagnoses)?;
        let written = self.file.write_all(&bytes).and_then(|()| self.file.flush());
        written.with_context(|| format!("cannot write {}", shown(&self.path)))?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for NewBundle {
    fn drop(&mut self) {
        let is_file = self
            .file
            .metadata()
            .is_ok_and(|metadata| metadata.is_file());
        if !self.is_done && is_file && !is_stdout(&self.path) {
            fs::remove_file(&self.path).unwrap_or_default();
        }
    }
}

fn created(path: &Path) -> Result<File> {
    let file = match create_private(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => wait_for_reader(path),
        created => created,
    };
    match file {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
            "{} is there already, and is not overwritten: name another file, or remove it",
            shown(path)
        ),
        Err(error) => Err(error).with_context(|| format!("cannot create {}", shown(path))),
    }
}
