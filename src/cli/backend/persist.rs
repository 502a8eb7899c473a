//! `--persist`: the change in the director's configuration file, too, by the rights of the operator.
//!
//! The order leaves nothing half done. First the new file is complete beside the old one, on the disk, with
//! its mode and owner; then the director makes the change; then the new file takes the old one's place; then
//! the director reads it, and the override ends. What fails before the director is asked changes nothing.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result, bail, ensure};

use super::edit::{Wanted, edited};
use super::look;
use crate::api::model::BackendPatch;
use crate::client::{Client, Mode, Overriding};
use crate::config::MAX_FILE_BYTES;
use crate::io::file::{create_first, read_bounded};

/// A change that is ready to be written.
#[derive(Debug)]
pub(super) struct Persistence<'a> {
    vip: &'a str,
    address: IpAddr,
    wanted: Wanted,
    /// `None`: the file says so already.
    file: Option<NewFile>,
}

/// What takes a file's place. Dropping it removes it.
#[derive(Debug)]
struct NewFile {
    /// The file itself, behind all links.
    old: PathBuf,
    /// What it has now.
    before: Vec<u8>,
    /// Beside it.
    new: PathBuf,
}

impl<'a> Persistence<'a> {
    /// Makes the new file ready beside the old one.
    ///
    /// # Errors
    /// The director has no file, or one with other changes, which would be made as well; the change cannot be
    /// made in it; it cannot be written. Nothing is changed then.
    pub(super) fn prepare(
        client: &Client,
        vip: &'a str,
        address: IpAddr,
        wanted: &Wanted,
    ) -> Result<Self> {
        let ready = || {
            let path = file_of(client, vip)?;
            no_other_changes(client)?;
            NewFile::beside(&path, |name, text| edited(name, text, vip, address, wanted))
        };
        Ok(Self {
            vip,
            address,
            wanted: *wanted,
            file: ready().context("nothing was changed")?,
        })
    }

    /// Once the director has made the change: the file, and the end of the override.
    ///
    /// # Errors
    /// The file cannot be put in its place, or the director does not take it. The change holds all the same.
    pub(super) fn finish(self, client: &Client) -> Result<()> {
        if let Some(file) = &self.file {
            let placed = file.place();
            placed.context(
                "the director has made the change, as an override; the file is as it was",
            )?;
            let written = file.old.display();
            client
                .reload(Mode::Apply, Overriding::Keep)
                .with_context(|| {
                    format!("{written} has the change, and the director did not read it")
                })?;
        }
        self.end_overrides(client)
    }

    /// An override of what the file says anyway would hide the next change of the file.
    fn end_overrides(&self, client: &Client) -> Result<()> {
        let Wanted::Changed { weight, state } = self.wanted else {
            return Ok(());
        };
        let Some(backend) = look(client, self.vip, self.address)? else {
            return Ok(());
        };
        let patch = BackendPatch {
            weight: (weight.is_some() && backend.weight.overridden.is_some()).then_some(None),
            state: (state.is_some() && backend.state.overridden.is_some()).then_some(None),
            ..BackendPatch::default()
        };
        if patch != BackendPatch::default() {
            client.patch(self.vip, self.address, &patch)?;
        }
        Ok(())
    }
}

/// The file of the director.
fn file_of(client: &Client, vip: &str) -> Result<PathBuf> {
    let director = client.status(Some(vip))?.director;
    let Some(path) = director.config.file else {
        bail!("the director has no configuration file: it was started with --vip and --backend");
    };
    if !path.is_absolute() {
        bail!(
            "the director was started with {}, which is no file of a known folder",
            path.display()
        );
    }
    Ok(path)
}

/// The director will read the file, and would make changes of others, too.
fn no_other_changes(client: &Client) -> Result<()> {
    let reload = client
        .reload(Mode::DryRun, Overriding::Keep)
        .context("the file as it is would be refused")?;
    ensure!(
        reload.changes.is_empty(),
        "the file has changes that the director has not read yet: {}; look at them (tunlb diff) and \
         read them first (tunlb reload)",
        reload.changes.join("; ")
    );
    Ok(())
}

impl NewFile {
    /// Writes what `edit` makes of a file beside it; `None` where that is the same.
    fn beside(
        path: &Path,
        edit: impl FnOnce(&str, &str) -> Result<String>,
    ) -> Result<Option<Self>> {
        let shown = path.display();
        let old = fs::canonicalize(path).with_context(|| format!("cannot read {shown}"))?;
        let (before, metadata) = read(&old).with_context(|| format!("cannot read {shown}"))?;
        let text = String::from_utf8(before.clone()).with_context(|| format!("{shown}"))?;
        let after = edit(&shown.to_string(), &text)?;
        if after == text {
            return Ok(None);
        }
        let folder = old.parent().unwrap_or_else(|| Path::new("/"));
        let (new, file) = create_first(names(&old), 0o600)
            .with_context(|| format!("cannot create a file in {}", folder.display()))?;
        let written = Self { old, before, new };
        fill(&file, &metadata, after.as_bytes())
            .with_context(|| format!("cannot write {}", written.new.display()))?;
        Ok(Some(written))
    }

    /// Takes the old file's place, unless that was changed meanwhile.
    fn place(&self) -> Result<()> {
        let (now, _) = read(&self.old)?;
        ensure!(
            now == self.before,
            "{} was changed meanwhile",
            self.old.display()
        );
        fs::rename(&self.new, &self.old)
            .with_context(|| format!("cannot replace {}", self.old.display()))?;
        let folder = self.old.parent().unwrap_or_else(|| Path::new("/"));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.with_context(|| format!("cannot write {}", folder.display()))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        fs::remove_file(&self.new).unwrap_or_default(); // it is gone once it is in its place
    }
}

fn read(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((read_bounded(file, MAX_FILE_BYTES)?, metadata))
}

/// Hidden, so that no program takes it for a configuration.
fn names(old: &Path) -> impl Iterator<Item = PathBuf> {
    let name = old.file_name().unwrap_or_default().to_string_lossy();
    let begin = format!(".{name}.tunlb-{}", process::id());
    let folder = old.parent().unwrap_or_else(|| Path::new("/")).to_owned();
    (0_u32..).map(move |number| folder.join(format!("{begin}-{number}")))
}

/// Content, owner and mode, down to the disk.
fn fill(mut file: &File, like: &Metadata, content: &[u8]) -> Result<()> {
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        let (uid, gid) = (like.uid(), like.gid());
        fchown(file, Some(uid), Some(gid))
            .with_context(|| format!("cannot keep the owner (uid {uid}, gid {gid})"))?;
    }
    file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn upper(_: &str, text: &str) -> Result<String> {
        Ok(text.to_uppercase())
    }

    fn listed(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_file_is_replaced_behind_its_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("tunlb.toml"), folder.path().join("link"));
        fs::write(&file, "a").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        symlink("tunlb.toml", &link).unwrap();
        let new = NewFile::beside(&link, upper).unwrap().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "a");
        assert_eq!(listed(folder.path()), 3);
        new.place().unwrap();
        drop(new);
        assert_eq!(fs::read_to_string(&file).unwrap(), "A");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(listed(folder.path()), 2);
        assert!(
            NewFile::beside(&link, upper).unwrap().is_none(),
            "nothing to change"
        );
    }

    #[test]
    fn what_is_not_placed_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tunlb.toml");
        fs::write(&file, "a").unwrap();
        drop(NewFile::beside(&file, upper).unwrap());
        assert_eq!(
            (listed(folder.path()), fs::read(&file).unwrap()),
            (1, b"a".to_vec())
        );
        let refused = NewFile::beside(&file, |_, _| bail!("no"));
        assert_eq!(refused.unwrap_err().to_string(), "no");
        assert_eq!(listed(folder.path()), 1);
    }

    #[test]
    fn a_file_that_others_change_meanwhile_is_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tunlb.toml");
        fs::write(&file, "a").unwrap();
        let new = NewFile::beside(&file, upper).unwrap().unwrap();
        fs::write(&file, "b").unwrap();
        let error = new.place().unwrap_err().to_string();
        assert!(
            error.ends_with("tunlb.toml was changed meanwhile"),
            "{error}"
        );
        drop(new);
        assert_eq!(
            (listed(folder.path()), fs::read(&file).unwrap()),
            (1, b"b".to_vec())
        );
    }

    #[test]
    fn what_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", NewFile::beside(path, upper).unwrap_err());
        assert!(error(&folder.path().join("none")).contains("cannot read"));
        assert!(error(folder.path()).contains("it is no regular file"));
    }
}
