//! What the commands have in common that talk to a running director: its socket, and how its answers end them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{BAD_NEWS, complain};
use crate::api::socket;
use crate::client::{Client, ClientError};

/// `--api`
#[derive(Debug, Clone, clap::Args)]
pub struct ApiArgs {
    /// The director's socket [default: that of the director of this network namespace]
    #[arg(long, value_name = "PATH")]
    pub api: Option<PathBuf>,
}

impl ApiArgs {
    /// The way to the director that is meant.
    ///
    /// # Errors
    /// What cannot be read of `/proc`.
    pub(super) fn client(&self) -> Result<Client> {
        let named = self.api.clone().map(Ok);
        let path = named.unwrap_or_else(socket::default_path);
        Ok(Client::new(
            path.context("cannot tell the network namespace")?,
        ))
    }
}

/// The end of a command: a director that says no, for a reason that is an answer, is bad news.
pub(super) fn ended(result: Result<ExitCode>) -> Result<ExitCode> {
    match result {
        Err(error) if is_bad_news(&error) => {
            complain(&format!("tunlb: {error:#}"));
            Ok(ExitCode::from(BAD_NEWS))
        }
        other => other,
    }
}

fn is_bad_news(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ClientError>()
        .is_some_and(ClientError::is_bad_news)
}
