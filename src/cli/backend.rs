//! `tunlb backend`: changes of a running director's backends, for a time or into the file, too.

mod drain;
mod edit;
mod persist;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};

use super::running::ApiArgs;
use super::status::notes;
use super::{print, print_json};
use crate::api::model::{Backend, BackendPatch};
use crate::client::Client;
use crate::config::parse_duration;
use crate::text::Plain;
use edit::Wanted;
use persist::Persistence;

/// Arguments of `tunlb backend`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What becomes of the backend.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Add a backend to a VIP
    #[command(override_usage = "tunlb backend add [OPTIONS] <VIP> <ADDRESS>")]
    Add(Add),
    /// Override its weight, its state or its measured health, or take overrides back
    #[command(override_usage = "tunlb backend set [OPTIONS] <VIP> <ADDRESS>")]
    Set(Set),
    /// Let it take no new flows; those that it has go on
    #[command(override_usage = "tunlb backend drain [OPTIONS] <VIP> <ADDRESS>")]
    Drain(Drain),
    /// Remove it from its VIP; its flows move to other backends
    #[command(override_usage = "tunlb backend remove [OPTIONS] <VIP> <ADDRESS>")]
    Remove(Remove),
}

/// Which backend, and of which director.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The VIP, by its name
    #[arg(value_name = "VIP")]
    pub vip: String,

    /// The backend
    #[arg(value_name = "ADDRESS")]
    pub address: IpAddr,

    /// Write it into the director's configuration file, too, by your own rights: comments and layout stay.
    /// Then the director reads the file, and the override ends
    #[arg(long)]
    pub persist: bool,

    /// The backend as one JSON document on stdout (described in docs/api.md)
    #[arg(long)]
    pub json: bool,

    /// The director.
    #[command(flatten)]
    pub api: ApiArgs,
}

/// How long, and why.
#[derive(Debug, clap::Args)]
pub struct Terms {
    /// After that the file holds again, such as 10m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_lasts, conflicts_with = "persist")]
    pub lasts: Option<Duration>,

    /// Shown to others with the change
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Arguments of `tunlb backend add`.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// The backend.
    #[command(flatten)]
    pub which: Which,

    /// Its share of new flows, from 0 to 65535 [default: 1]
    #[arg(long, value_name = "N")]
    pub weight: Option<u16>,

    /// What it takes [default: active]
    #[arg(long, value_enum, value_name = "STATE")]
    pub state: Option<State>,

    /// How long, and why.
    #[command(flatten)]
    pub terms: Terms,
}

/// Arguments of `tunlb backend set`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true).args(["weight", "state", "health", "clear"])))]
pub struct Set {
    /// The backend.
    #[command(flatten)]
    pub which: Which,

    /// Its share of new flows, from 0 to 65535; "file" takes the override back
    #[arg(long, value_name = "N|file", value_parser = parse_weight)]
    pub weight: Option<Given<u16>>,

    /// What it takes: active, draining, disabled; "file" takes the override back
    #[arg(long, value_name = "STATE|file", value_parser = parse_state)]
    pub state: Option<Given<State>>,

    /// What it is taken for, whatever is measured, for a time (--for): up, down; "auto" takes the override back
    #[arg(
        long,
        value_enum,
        value_name = "up|down|auto",
        conflicts_with = "persist"
    )]
    pub health: Option<Health>,

    /// Take all overrides of this backend back
    #[arg(long, conflicts_with_all = ["weight", "state", "health", "persist", "lasts", "reason"])]
    pub clear: bool,

    /// How long, and why.
    #[command(flatten)]
    pub terms: Terms,
}

/// Arguments of `tunlb backend drain`.
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// The backend.
    #[command(flatten)]
    pub which: Which,

    /// How long, and why.
    #[command(flatten)]
    pub terms: Terms,

    /// Wait until its last flow has ended; exit code 1 if some are left at the deadline
    #[arg(long)]
    pub wait: bool,

    /// The longest wait
    #[arg(long, value_name = "DURATION", value_parser = parse_lasts, default_value = "15m", requires = "wait")]
    pub deadline: Duration,
}

/// Arguments of `tunlb backend remove`.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The backend.
    #[command(flatten)]
    pub which: Which,
}

/// A value, or that of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given<T> {
    /// This one.
    Value(T),
    /// The file's.
    File,
}

/// What an operator wants of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// It takes flows
    Active,
    /// It takes no new ones
    Draining,
    /// It takes none
    Disabled,
}

/// What a backend is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Health {
    /// It is healthy
    Up,
    /// It is not
    Down,
    /// What was measured
    Auto,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

impl<T> Given<T> {
    /// As a merge patch has it.
    fn or_null<U>(self, word: impl FnOnce(T) -> U) -> Option<U> {
        match self {
            Self::Value(value) => Some(word(value)),
            Self::File => None,
        }
    }
}

fn parse_lasts(text: &str) -> Result<Duration, String> {
    let whole = |duration: &Duration| !duration.is_zero() && duration.subsec_nanos() == 0;
    let lasts = parse_duration(text).filter(whole);
    lasts.ok_or_else(|| "not whole seconds such as 90s, 10m, 2h or 1d".to_owned())
}

fn parse_weight(text: &str) -> Result<Given<u16>, String> {
    match text {
        "file" => Ok(Given::File),
        number => number
            .parse()
            .map(Given::Value)
            .map_err(|_| "not 0 to 65535, or file".to_owned()),
    }
}

fn parse_state(text: &str) -> Result<Given<State>, String> {
    match text {
        "file" => Ok(Given::File),
        word => State::from_str(word, false)
            .map(Given::Value)
            .map_err(|_| "not active, draining, disabled or file".to_owned()),
    }
}

/// Changes the backend: 0, or 1 where the director refuses, or flows are left at the deadline.
///
/// # Errors
/// No director answers, it knows no such VIP or backend, or the file cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.action {
        Action::Add(add) => {
            let patch = add.patch();
            let wanted = Wanted::Present {
                weight: add.weight,
                state: add.state.map(State::word),
            };
            add.which.change(&wanted, |client, which| {
                client.add(&which.vip, which.address, &patch).map(Some)
            })
        }
        Action::Set(set) if set.clear => {
            let client = set.which.api.client()?;
            client.clear(&set.which.vip, set.which.address)?;
            let there = set.which.look(&client)?;
            set.which.tell(there.as_ref())
        }
        Action::Set(set) => {
            let (patch, wanted) = (set.patch()?, set.wanted()?);
            set.which.change(&wanted, |client, which| {
                client.patch(&which.vip, which.address, &patch).map(Some)
            })
        }
        Action::Drain(drain) => run_drain(drain),
        Action::Remove(remove) => remove.which.change(&Wanted::Absent, |client, which| {
            client.remove(&which.vip, which.address).map(|()| None)
        }),
    }
}

fn run_drain(drain: &Drain) -> Result<ExitCode> {
    let draining = State::Draining.word();
    let patch = BackendPatch {
        state: Some(Some(draining.to_owned())),
        ..drain.terms.patch()
    };
    let wanted = Wanted::Changed {
        weight: None,
        state: Some(draining),
    };
    let which = &drain.which;
    let code = which.change(&wanted, |client, which| {
        client.patch(&which.vip, which.address, &patch).map(Some)
    })?;
    if drain.wait {
        return drain::wait(
            &which.api.client()?,
            &which.vip,
            which.address,
            drain.deadline,
        );
    }
    Ok(code)
}

impl Which {
    /// Makes a change at run time and, where it is asked for, in the file: what is written there is ready
    /// before the director is asked, so that a full disk or a missing right changes nothing at all.
    fn change(
        &self,
        wanted: &Wanted,
        ask: impl FnOnce(&Client, &Self) -> Result<Option<Backend>, crate::client::ClientError>,
    ) -> Result<ExitCode> {
        let client = self.api.client()?;
        if !self.persist {
            let changed = ask(&client, self)?;
            return self.tell(changed.as_ref());
        }
        let persistence = Persistence::prepare(&client, &self.vip, self.address, wanted)?;
        ask(&client, self)?;
        persistence.finish(&client)?;
        self.tell(self.look(&client)?.as_ref())
    }

    /// The backend as it is now; `None`: it is gone.
    fn look(&self, client: &Client) -> Result<Option<Backend>> {
        Ok(look(client, &self.vip, self.address)?)
    }

    fn tell(&self, backend: Option<&Backend>) -> Result<ExitCode> {
        if self.json {
            print_json(&serde_json::to_string(&backend)?)?;
        } else {
            print(&self.line(backend))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn line(&self, backend: Option<&Backend>) -> String {
        let (vip, address) = (Plain(&self.vip), self.address);
        let what = backend.map_or_else(|| "removed".to_owned(), described);
        format!("vip {vip}: backend {address}: {}\n", Plain(what))
    }
}

/// A backend of a running director.
fn look(
    client: &Client,
    vip: &str,
    address: IpAddr,
) -> Result<Option<Backend>, crate::client::ClientError> {
    let status = client.status(Some(vip))?;
    let mut backends = status.vips.into_iter().flat_map(|vip| vip.backends);
    Ok(backends.find(|backend| backend.address == address))
}

fn described(backend: &Backend) -> String {
    let takes = match backend.takes.as_str() {
        "nothing" => "takes no flows",
        "known" => "takes no new flows",
        _ => "takes new flows",
    };
    format!("{takes}, {}", notes(backend, "").join(", "))
}

impl Terms {
    fn patch(&self) -> BackendPatch {
        BackendPatch {
            for_seconds: self.lasts.map(|lasts| lasts.as_secs()),
            reason: self.reason.clone(),
            ..BackendPatch::default()
        }
    }
}

impl Add {
    fn patch(&self) -> BackendPatch {
        BackendPatch {
            weight: self.weight.map(Some),
            state: self.state.map(|state| Some(state.word().to_owned())),
            ..self.terms.patch()
        }
    }
}

impl Set {
    fn patch(&self) -> Result<BackendPatch> {
        let health = match self.health {
            Some(Health::Up | Health::Down) if self.terms.lasts.is_none() => {
                bail!("--health up and down end by themselves: add --for, such as --for 10m")
            }
            Some(Health::Up) => Some(Some("up".to_owned())),
            Some(Health::Down) => Some(Some("down".to_owned())),
            Some(Health::Auto) => Some(None),
            None => None,
        };
        Ok(BackendPatch {
            weight: self.weight.map(|weight| weight.or_null(|weight| weight)),
            state: self
                .state
                .map(|state| state.or_null(|state| state.word().to_owned())),
            health,
            ..self.terms.patch()
        })
    }

    /// For the file; only what has a value can be written.
    fn wanted(&self) -> Result<Wanted> {
        let gives_back = self.weight == Some(Given::File) || self.state == Some(Given::File);
        if self.which.persist && gives_back {
            bail!("--persist writes values into the file, and \"file\" is none");
        }
        Ok(Wanted::Changed {
            weight: self
                .weight
                .and_then(|weight| weight.or_null(|weight| weight)),
            state: self.state.and_then(|state| state.or_null(State::word)),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(line: &str) -> Result<Action, String> {
        let cli = Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?;
        let Command::Backend(args) = cli.command else {
            panic!("{line}");
        };
        Ok(args.action)
    }

    fn patch_of_set(options: &str) -> Result<String, String> {
        let action = parsed(&format!("tunlb backend set web 10.0.1.12 {options}"))?;
        let Action::Set(set) = action else {
            panic!("{action:?}");
        };
        let patch = set.patch().map_err(|error| error.to_string())?;
        set.wanted().map_err(|error| error.to_string())?;
        Ok(serde_json::to_string(&patch).unwrap())
    }

    #[test]
    fn patches() {
        for (options, patch) in [
            ("--weight 0", r#"{"weight":0}"#),
            (
                "--weight file --state draining",
                r#"{"weight":null,"state":"draining"}"#,
            ),
            ("--state file", r#"{"state":null}"#),
            ("--health auto", r#"{"health":null}"#),
            (
                "--health down --for 10m --reason kernel",
                r#"{"health":"down","for_seconds":600,"reason":"kernel"}"#,
            ),
        ] {
            assert_eq!(patch_of_set(options).unwrap(), patch, "{options}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (options, says) in [
            ("--reason x", "required"),
            ("--weight 65536", "not 0 to 65535, or file"),
            ("--state up", "not active, draining, disabled or file"),
            ("--health up", "add --for"),
            ("--health up --for 0s", "not whole seconds"),
            ("--weight 1 --for 1500ms", "not whole seconds"),
            ("--weight 1 --for 10", "not whole seconds"),
            ("--weight 1 --clear", "cannot be used with"),
            ("--weight 1 --for 10m --persist", "cannot be used with"),
            ("--health up --for 10m --persist", "cannot be used with"),
            ("--weight file --persist", "is none"),
        ] {
            let error = patch_of_set(options).unwrap_err();
            assert!(error.contains(says), "{options}: {error}");
        }
        let error = parsed("tunlb backend drain web 10.0.1.12 --deadline 5m").unwrap_err();
        assert!(error.contains("--wait"), "{error}");
        assert!(parsed("tunlb backend drain web b1").is_err());
    }
}
