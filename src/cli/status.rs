//! `tunlb status`: what a running director does, as a table, as JSON, once or again and again.

mod overview;
mod problems;
mod totals;
mod watch;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

pub(super) use overview::{author, notes};

use super::columns::{Cell, Screen};
use super::running::ApiArgs;
use super::{BAD_NEWS, print, print_json, print_styled};
use crate::api::model::{SCHEMA, Status};
use crate::client::{Client, ClientError};

/// Arguments of `tunlb status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this VIP, by its name
    #[arg(long, value_name = "NAME")]
    pub vip: Option<String>,

    /// Totals since the start, in the columns of `ipvsadm -Ln --stats`
    #[arg(long, conflicts_with = "rate")]
    pub stats: bool,

    /// What happens in a second, in the columns of `ipvsadm -Ln --rate`
    #[arg(long)]
    pub rate: bool,

    /// The whole state as one JSON document (described in docs/api.md)
    #[arg(long)]
    pub json: bool,

    /// Show it again every so many seconds, until Ctrl-C
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "1",
        value_parser = parse_seconds
    )]
    pub watch: Option<Duration>,

    /// Only what is wrong; exit code 1 if there is anything
    #[arg(long, conflicts_with_all = ["stats", "rate", "watch"])]
    pub problems: bool,

    /// The director.
    #[command(flatten)]
    pub api: ApiArgs,
}

/// Shortest and longest time between two looks, in seconds.
const SECONDS: std::ops::RangeInclusive<f64> = 0.1..=86_400.0;

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| SECONDS.contains(seconds));
    let wrong = || "not a number of seconds from 0.1 to 86400".to_owned();
    seconds.map(Duration::from_secs_f64).ok_or_else(wrong)
}

/// What is shown of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Overview,
    Stats,
    Rate,
}

impl Args {
    const fn view(&self) -> View {
        if self.stats {
            View::Stats
        } else if self.rate {
            View::Rate
        } else {
            View::Overview
        }
    }
}

/// Shows it: 0, or 1 where problems were asked for and there are some.
///
/// # Errors
/// No director answers.
pub fn run(args: &Args) -> Result<ExitCode> {
    let client = args.api.client()?;
    if args.problems {
        return tell_problems(args, &client);
    }
    if let Some(interval) = args.watch {
        return watch::run(args, &client, interval);
    }
    if args.json {
        print_json(&client.status_text(args.vip.as_deref())?)?;
    } else {
        let status = client.status(args.vip.as_deref())?;
        print_styled(&text(&status, args.view(), Screen::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Status, view: View, screen: Screen) -> String {
    let lines = match view {
        View::Overview => overview::lines(status, screen),
        View::Stats | View::Rate => totals::lines(status, view, screen),
    };
    lines.iter().map(|line| line.clone() + "\n").collect()
}

/// Columns that every table begins with.
fn service(vip: &crate::api::model::Vip) -> [Cell; 2] {
    let port = vip
        .port
        .map_or_else(|| "any".to_owned(), |port| port.to_string());
    let address = if vip.address.is_ipv6() {
        format!("[{}]:{port}", vip.address)
    } else {
        format!("{}:{port}", vip.address)
    };
    // By default a VIP's name is its address.
    let has_own_name = !vip.name.starts_with(&address);
    let name = if has_own_name {
        format!("{} {address}", vip.name)
    } else {
        address
    };
    [Cell::new(vip.protocol.to_uppercase()), Cell::new(name)]
}

/// Like those of [`service`].
fn backend(backend: &crate::api::model::Backend) -> [Cell; 2] {
    [Cell::new("  ->"), Cell::new(backend.address.to_string())]
}

/// Between two looks at counters that should not grow.
const GROWING: Duration = Duration::from_secs(1);

fn tell_problems(args: &Args, client: &Client) -> Result<ExitCode> {
    let (before, now) = two_looks(args, client)?;
    let found = problems::found(before.as_ref(), &now);
    if args.json {
        let document = Document {
            schema: SCHEMA,
            problems: &found,
        };
        print_json(&serde_json::to_string(&document)?)?;
    } else if found.is_empty() {
        print("no problem\n")?;
    } else {
        let lines = found.iter().map(|problem| problem.to_string() + "\n");
        print(&lines.collect::<String>())?;
    }
    Ok(if found.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(BAD_NEWS)
    })
}

/// Where counters of losses are 0, one look is enough: there is nothing that could have grown.
fn two_looks(args: &Args, client: &Client) -> Result<(Option<Status>, Status), ClientError> {
    let first = client.status(args.vip.as_deref())?;
    let director = &first.director;
    let has_losses = director.tun_drops > 0
        || !director.send_errors.is_empty()
        || !director.device_drops.is_empty();
    if !has_losses {
        return Ok((None, first));
    }
    thread::sleep(GROWING);
    Ok((Some(first), client.status(args.vip.as_deref())?))
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: u32,
    problems: &'a [problems::Problem],
}

#[cfg(test)]
mod tests;
