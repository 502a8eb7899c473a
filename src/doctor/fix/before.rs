//! How the machine is before a command: exactly what the command's undo depends on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::command::{Change, Question};
use crate::io::command;

/// How long a look may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a change's undo depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// Settings by dotted name: of those that [`Change::settings`] names the ones that exist.
    pub settings: BTreeMap<String, String>,
    /// The answers to [`Change::questions`], in their order.
    pub listings: Vec<String>,
}

impl Before {
    /// Looks it up on this machine.
    ///
    /// # Errors
    /// What could not be read and why.
    pub fn read(change: &Change) -> Result<Self, String> {
        let settings = change.settings();
        let names = settings.iter().map(String::as_str);
        let questions = change.questions();
        Ok(Self {
            settings: names
                .flat_map(|name| settings_of(Path::new("/proc/sys"), name))
                .collect(),
            listings: questions.iter().map(answer).collect::<Result<_, _>>()?,
        })
    }
}

/// The settings of a dotted name with `*` for every device.
fn settings_of(root: &Path, name: &str) -> Vec<(String, String)> {
    let path_of = |name: &str| {
        let parts = name.split('.').map(|part| part.replace('/', "."));
        parts.fold(root.to_owned(), |path, part| path.join(part))
    };
    let names = match name.split_once('*') {
        None => vec![name.to_owned()],
        Some((start, end)) => devices(&path_of(start.trim_end_matches('.')))
            .iter()
            .map(|device| format!("{start}{device}{end}"))
            .collect(),
    };
    let value = |name: String| {
        let value = fs::read_to_string(path_of(&name)).ok()?;
        Some((name, value.trim().to_owned()))
    };
    names.into_iter().filter_map(value).collect()
}

/// The devices that have settings, as sysctl(8) names them.
fn devices(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().replace('.', "/"))
        .collect()
}

fn answer(question: &Question) -> Result<String, String> {
    match question {
        // A kernel with every module built in has no list of them.
        Question::File(path) => match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            result => result.map_err(|error| format!("read {path}: {error}")),
        },
        Question::Program(words) => program(words),
    }
}

fn program(words: &[String]) -> Result<String, String> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(String::new());
    };
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match command::output(program, &arguments, DEADLINE) {
        Ok(text) => Ok(text),
        // A table comes into being with its first route.
        Err(error) if error.to_string().contains("FIB table does not exist") => Ok(String::new()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_by_name_and_for_every_device() {
        let folder = tempfile::tempdir().unwrap();
        for (file, value) in [
            ("net/ipv4/ip_forward", "0\n"),
            ("net/ipv4/conf/all/forwarding", "0\n"),
            ("net/ipv4/conf/eth0.100/forwarding", "1\n"),
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        }
        let mut all = settings_of(folder.path(), "net.ipv4.conf.*.forwarding");
        all.sort();
        let expected = [
            ("net.ipv4.conf.all.forwarding", "0"),
            ("net.ipv4.conf.eth0/100.forwarding", "1"),
        ];
        assert_eq!(
            all,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(settings_of(folder.path(), "net.ipv4.ip_forward").len(), 1);
        assert_eq!(settings_of(folder.path(), "net.ipv4.none"), []);
    }
}
