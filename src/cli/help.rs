//! `tunlb help`: the help of a command, and the documents that helps name, which an installed tunlb has
//! nowhere else.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::CommandFactory as _;

use super::{Cli, print, print_styled};

/// Arguments of `tunlb help`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A command; `config`: an annotated example of the configuration, with every key; or a file of docs/
    #[arg(value_name = "COMMAND|config|docs/FILE")]
    pub topic: Option<String>,
}

/// An annotated configuration with every key that this version takes.
const EXAMPLE: &str = include_str!("../../docs/tunlb.example.toml");

/// The files of docs/ that an operator reads.
const DOCUMENTS: [(&str, &str); 11] = [
    ("docs/api.md", include_str!("../../docs/api.md")),
    ("docs/balance.md", include_str!("../../docs/balance.md")),
    ("docs/capture.md", include_str!("../../docs/capture.md")),
    ("docs/config.md", include_str!("../../docs/config.md")),
    ("docs/health.md", include_str!("../../docs/health.md")),
    ("docs/doctor.md", include_str!("../../docs/doctor.md")),
    ("docs/doctor.zh.md", include_str!("../../docs/doctor.zh.md")),
    (
        "docs/operations.md",
        include_str!("../../docs/operations.md"),
    ),
    ("docs/replay.md", include_str!("../../docs/replay.md")),
    ("docs/tunlb.example.toml", EXAMPLE),
    ("docs/xdp.md", include_str!("../../docs/xdp.md")),
];

/// Prints what is asked for.
///
/// # Errors
/// There is no such topic, or stdout cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut root = Cli::command();
    root.build(); // names the commands in full: `tunlb check`
    match args.topic.as_deref() {
        None => print_styled(&root.render_help().ansi().to_string())?,
        Some("config") => print(EXAMPLE)?,
        Some(topic) => match document(topic) {
            Some(text) => print(text)?,
            None => command_help(&mut root, topic)?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn document(name: &str) -> Option<&'static str> {
    let mut documents = DOCUMENTS.iter();
    documents
        .find(|(known, _)| *known == name)
        .map(|(_, text)| *text)
}

fn command_help(root: &mut clap::Command, name: &str) -> Result<()> {
    let Some(command) = root.find_subcommand_mut(name) else {
        let commands: Vec<_> = root
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        let documents = DOCUMENTS.map(|(name, _)| name);
        bail!(
            "no help for {name:?}; there is help for the commands {}, for config, and for {}",
            commands.join(", "),
            documents.join(", ")
        );
    };
    print_styled(&command.render_long_help().ansi().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every document that a help names can be printed.
    #[test]
    fn named_documents_are_there() {
        let mut root = Cli::command();
        root.build();
        let mut helps = root.render_long_help().to_string();
        for command in root.get_subcommands_mut() {
            helps += &command.render_long_help().to_string();
        }
        let named =
            helps.split(|letter: char| letter.is_whitespace() || "()[]`,;".contains(letter));
        let named: Vec<_> = named
            .map(|word| word.trim_end_matches('.'))
            .filter(|word| word.starts_with("docs/") && !["docs/", "docs/FILE"].contains(word))
            .collect();
        assert!(named.len() >= 3, "{named:?}");
        for name in named {
            assert!(document(name).is_some(), "{name}");
        }
    }
}
