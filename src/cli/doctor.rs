//! `tunlb doctor`: why does the backend get the packet and the client no answer?
//!
//! Looks at this machine, or takes the facts of a bundle, judges them, and reports. Changes nothing
//! unless `--fix --apply` or `--persist` ask for it (`mend`).

mod files;
mod mend;
mod values;
mod watch;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser as _, ValueEnum};
use files::NewBundle;
use values::{parse_code, parse_encap, parse_service};

use super::output::is_stdout;
use super::source::{ConfigSource, complain_about};
use super::{BAD_NEWS, Cli, Command, NO_WORK, complain, print, print_styled};
use crate::config::{Config, ConfigError};
use crate::doctor::facts::{Encap, Facts, Role};
use crate::doctor::finding::{Code, Diagnosis, Status};
use crate::doctor::gather::{self, BackendOptions, FoundRole, Service};
use crate::doctor::report::Style;
use crate::doctor::report::json::Document;
use crate::doctor::report::text::{self, Detail};
use crate::doctor::{Lang, Selection, Target, catalogue, judge, peer};

/// Arguments of `tunlb doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which side of the tunnel this machine is; auto finds out
    #[arg(long, value_enum, default_value_t, value_name = "ROLE")]
    pub role: RoleChoice,

    /// What clients address, such as 203.0.113.10:80/tcp; may be repeated [default: every VIP found]
    #[arg(long, value_name = "ADDR:PORT/PROTO", value_parser = parse_service)]
    pub vip: Vec<Service>,

    /// A client's address: routes and filters are judged for it [default: the director's]
    #[arg(long, value_name = "ADDR")]
    pub client: Option<IpAddr>,

    /// The director's address, the source of outer packets
    #[arg(long, value_name = "ADDR")]
    pub director: Option<IpAddr>,

    /// On a director: its configuration [default: that of the running one]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The tunnel [default: what is found]
    #[arg(long, value_name = "ipip|gue[:PORT]", value_parser = parse_encap)]
    pub encap: Option<Encap>,

    /// One JSON document on stdout (described in docs/doctor.md)
    #[arg(long)]
    pub json: bool,

    /// Show the checks that pass or are skipped, too
    #[arg(short, long)]
    pub verbose: bool,

    /// Print the commands that mend what is found, and run none of them
    #[arg(long)]
    pub fix: bool,

    /// With --fix: run them, one finding after the other, and write an undo script; asks before each
    #[arg(long, requires = "fix", conflicts_with_all = ["from_bundle", "bundle", "peer"])]
    pub apply: bool,

    /// Write the files that make a mend last, those that this machine reads; asks before each
    #[arg(long, conflicts_with_all = ["from_bundle", "bundle", "peer"])]
    pub persist: bool,

    /// Make every change without asking
    #[arg(short, long)]
    pub yes: bool,

    /// Where the undo script goes [default: ./tunlb-doctor-undo-TIME.sh]
    #[arg(long, value_name = "FILE")]
    pub undo_file: Option<PathBuf>,

    /// Explain a code such as B11 and stop
    #[arg(long, value_name = "CODE", value_parser = parse_code)]
    pub explain: Option<Code>,

    /// List all checks and stop
    #[arg(long)]
    pub list_checks: bool,

    /// Only these checks, such as B10,B11
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = parse_code)]
    pub only: Vec<Code>,

    /// Not these checks
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = parse_code)]
    pub skip: Vec<Code>,

    /// The language of findings [default: from LC_ALL, LC_MESSAGES or LANG]
    #[arg(long, value_enum, value_name = "LANG")]
    pub lang: Option<Lang>,

    /// Live.
    #[command(flatten)]
    pub live: watch::WatchArgs,

    /// Write what was seen and found into a new file, for a colleague or --from-bundle; - is standard output
    #[arg(long, value_name = "FILE.tar.zst", conflicts_with = "from_bundle")]
    pub bundle: Option<PathBuf>,

    /// Judge what was seen on another machine instead of this one; - is standard input
    #[arg(long, value_name = "FILE.tar.zst", conflicts_with_all = ["vip", "client", "director", "config", "encap"])]
    pub from_bundle: Option<PathBuf>,

    /// What --json printed on the tunnel's other end: both become one verdict; - is standard input
    #[arg(long, value_name = "FILE.json")]
    pub peer: Option<PathBuf>,
}

/// `--role`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum RoleChoice {
    /// Where the service runs
    Backend,
    /// Where `tunlb run` runs
    Director,
    /// What the machine looks like
    #[default]
    Auto,
}

/// Examines: 0 where nothing fails, 1 for a FAIL, 2 where the answer is unknown.
///
/// # Errors
/// What kept it from examining anything: no VIP, no configuration, an unreadable file.
pub fn run(args: &Args) -> Result<ExitCode> {
    let lang = args.lang.unwrap_or_else(user_language);
    if let Some(code) = args.explain {
        let entry = known(code)?;
        print(&entry.explanation(lang))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.list_checks {
        print(&list(lang))?;
        return Ok(ExitCode::SUCCESS);
    }
    examine(args, lang)
}

fn examine(args: &Args, lang: Lang) -> Result<ExitCode> {
    for code in args.only.iter().chain(&args.skip) {
        known(*code)?;
    }
    one_family(args)?;
    one_of_each_stream(args)?;
    if args.apply || args.persist {
        return mend::run(args, lang);
    }
    let bundle = args.bundle.as_deref().map(NewBundle::create).transpose()?;
    let Some((machines, mut diagnoses)) = diagnose(args, lang)? else {
        return Ok(ExitCode::from(BAD_NEWS));
    };
    if let (Some(bundle), [facts, ..]) = (bundle, machines.as_slice()) {
        bundle.write(facts, &diagnoses)?;
    }
    if let Some(path) = &args.peer {
        diagnoses = with_peer(path, diagnoses, lang)?;
    }
    print_all(args, &diagnoses, lang)?;
    Ok(exit_code(&diagnoses))
}

/// A client of another family than a VIP sends it nothing.
fn one_family(args: &Args) -> Result<()> {
    let Some(client) = args.client else {
        return Ok(());
    };
    let other = |service: &&Service| service.address.is_ipv4() != client.is_ipv4();
    if let Some(service) = args.vip.iter().find(other) {
        let vip = service.address;
        bail!(
            "--client {client} and --vip {vip} are of different families: no packet goes between them"
        );
    }
    Ok(())
}

/// Standard input is read once, and standard output takes one thing.
fn one_of_each_stream(args: &Args) -> Result<()> {
    let is_dash = |path: &Option<PathBuf>| path.as_deref().is_some_and(files::is_stdin);
    let inputs = [&args.from_bundle, &args.peer, &args.config];
    if inputs.into_iter().filter(|path| is_dash(path)).count() > 1 {
        bail!("- is standard input, which can be read once; name a file for the others");
    }
    if to_stdout(args) == 0 {
        return Ok(());
    }
    if to_stdout(args) > 1 || args.json {
        bail!("standard output cannot take two of --json, --bundle - and --pcap -; name a file");
    }
    Ok(())
}

/// How many files go to standard output; the report goes to standard error then.
fn to_stdout(args: &Args) -> usize {
    let paths = [&args.bundle, &args.live.pcap].into_iter().flatten();
    paths.filter(|path| is_stdout(path)).count()
}

/// What was seen and what it comes to, the worst first; nothing where the configuration is invalid, once
/// every problem is printed.
fn diagnose(args: &Args, lang: Lang) -> Result<Option<(Vec<Facts>, Vec<Diagnosis>)>> {
    let Some(machines) = look(args, lang)? else {
        return Ok(None);
    };
    let selection = Selection {
        only: args.only.clone(),
        skip: args.skip.clone(),
    };
    let mut diagnoses: Vec<_> = machines
        .iter()
        .flat_map(|facts| judge::judge(facts, &selection, lang))
        .collect();
    diagnoses.sort_by_key(|diagnosis| std::cmp::Reverse(diagnosis.verdict.status));
    Ok(Some((machines, diagnoses)))
}

fn print_all(args: &Args, diagnoses: &[Diagnosis], lang: Lang) -> Result<()> {
    let document = document(diagnoses)?;
    if args.json {
        return print(&document.text()?);
    }
    let report = if args.fix {
        text::fixes(diagnoses)
    } else {
        report(args, diagnoses, lang)
    };
    if to_stdout(args) > 0 {
        complain(&anstream::adapter::strip_str(&report).to_string());
        return Ok(());
    }
    print_styled(&report)
}

fn document(diagnoses: &[Diagnosis]) -> Result<Document> {
    Document::new(diagnoses)
        .context("no VIP was found on this machine; name one: --vip ADDR:PORT/PROTO")
}

fn print_report(args: &Args, diagnoses: &[Diagnosis], lang: Lang) -> Result<()> {
    print_styled(&report(args, diagnoses, lang))
}

fn report(args: &Args, diagnoses: &[Diagnosis], lang: Lang) -> String {
    let style = Style {
        width: terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0)),
        detail: if args.verbose {
            Detail::All
        } else {
            Detail::Notable
        },
        lang,
    };
    text::report(diagnoses, style)
}

/// Columns where there is no terminal.
const WIDTH: usize = 100;

/// FAIL is bad news; an unknown answer is work that could not be done.
fn exit_code(diagnoses: &[Diagnosis]) -> ExitCode {
    let worst = diagnoses
        .iter()
        .map(|diagnosis| diagnosis.verdict.status)
        .max();
    match worst {
        Some(Status::Fail) => ExitCode::from(BAD_NEWS),
        Some(Status::Unknown) => ExitCode::from(NO_WORK),
        Some(Status::Pass | Status::Skip | Status::Warn) | None => ExitCode::SUCCESS,
    }
}

/// What is judged: a bundle, or this machine in its role; nothing where its configuration is invalid,
/// once every problem is printed.
fn look(args: &Args, lang: Lang) -> Result<Option<Vec<Facts>>> {
    if let Some(path) = &args.from_bundle {
        return Ok(Some(vec![files::facts(path)?]));
    }
    let roles = roles(args)?;
    if args.live.watch && !roles.contains(&Role::Backend) {
        bail!("--watch follows packets through a backend; this is a director");
    }
    let mut machines = Vec::new();
    for role in roles {
        match role {
            Role::Backend => {
                let facts = look_or_watch(args, lang)?;
                machines.push(beside(machines.first(), facts));
            }
            Role::Director => match look_at_director(args)? {
                Some(facts) => machines.push(facts),
                None => return Ok(None),
            },
        }
    }
    Ok(Some(machines))
}

/// On a director that is a backend as well, its own VIPs are no backend's unless a tunnel ends here: one
/// on a device of it is the director's fault (D35).
fn beside(director: Option<&Facts>, mut backend: Facts) -> Facts {
    if let Some(director) = director.and_then(|facts| facts.director.as_ref()) {
        let is_backends =
            |target: &Target| target.tunnel.is_some() || !director.vips.contains_key(&target.vip);
        backend.targets.retain(is_backends);
    }
    backend
}

/// What this machine is examined as. One that is both is examined as both, the director first.
fn roles(args: &Args) -> Result<Vec<Role>> {
    match args.role {
        RoleChoice::Backend => return Ok(vec![Role::Backend]),
        RoleChoice::Director => return Ok(vec![Role::Director]),
        RoleChoice::Auto if args.config.is_some() => return Ok(vec![Role::Director]),
        RoleChoice::Auto if !args.vip.is_empty() => return Ok(vec![Role::Backend]),
        RoleChoice::Auto => {}
    }
    match gather::find_role() {
        FoundRole::Director => Ok(vec![Role::Director]),
        FoundRole::Backend => Ok(vec![Role::Backend]),
        FoundRole::Both if args.bundle.is_some() => {
            bail!("this machine is a director and a backend; a bundle is of one of them: --role")
        }
        FoundRole::Both => Ok(vec![Role::Director, Role::Backend]),
        FoundRole::Unknown => bail!(
            "this machine has no VIP, no tunnel that is up and no TUN of a director; on a backend name what \
             clients address: --vip ADDR:PORT/PROTO; on a director its configuration: -c FILE"
        ),
    }
}

/// With a watch, the facts are those of the client that was seen.
fn look_or_watch(args: &Args, lang: Lang) -> Result<Facts> {
    let facts = look_at_backend(args, args.client);
    if !args.live.watch {
        return Ok(facts);
    }
    let observation = watch::follow(&args.live, &facts, lang)?;
    let client = observation.flow.map(|(client, _)| client);
    let mut facts = look_at_backend(args, client.or(args.client));
    facts.watched = Some(observation);
    Ok(facts)
}

/// One look for all VIPs, or one for each that was named.
fn look_at_backend(args: &Args, client: Option<IpAddr>) -> Facts {
    let options = |service| BackendOptions {
        service,
        client,
        director: args.director,
        encap: args.encap,
    };
    let mut services = args.vip.iter();
    let mut facts = gather::backend(&options(services.next().copied()));
    for service in services {
        facts
            .targets
            .extend(gather::backend(&options(Some(*service))).targets);
    }
    facts
}

fn look_at_director(args: &Args) -> Result<Option<Facts>> {
    let loaded = match &args.config {
        Some(path) => Config::load(path),
        None => running_source()
            .context("the director's configuration is not known; name it: -c FILE")?
            .load_again(),
    };
    match loaded {
        Ok(config) => Ok(Some(gather::director(&config, args.client))),
        Err(ConfigError::Invalid(problems)) => {
            complain_about(&problems, None);
            Ok(None)
        }
        Err(error @ ConfigError::Read { .. }) => Err(error.into()),
    }
}

/// What the running director was started with: a file, seen from where it was started, or flags.
fn running_source() -> Option<ConfigSource> {
    let (pid, arguments) = gather::running_directors().into_iter().next()?;
    let Command::Run(mut run) = Cli::try_parse_from(arguments).ok()?.command else {
        return None;
    };
    if let Some(path) = &mut run.source.config
        && path.is_relative()
        && let Ok(folder) = fs::read_link(format!("/proc/{pid}/cwd"))
    {
        *path = folder.join(&*path);
    }
    Some(run.source)
}

/// Bytes of the other end's findings, beside all of one's own.
const MOST_MERGED: usize = 256 << 20;

fn with_peer(path: &Path, own: Vec<Diagnosis>, lang: Lang) -> Result<Vec<Diagnosis>> {
    let (document, bytes) = files::document(path)?;
    if bytes.saturating_mul(own.len()) > MOST_MERGED {
        bail!(
            "{} is too large to be put beside {} VIPs; name one: --vip",
            files::shown(path),
            own.len()
        );
    }
    own.into_iter()
        .map(|own| {
            // The other end's findings about the same VIP, or its only ones.
            let same = document.diagnoses().find(|other| other.vip == own.vip);
            let other = same.unwrap_or(&document.worst).clone();
            if other.role == own.role {
                bail!(
                    "{} is about the same end of the tunnel as this machine",
                    files::shown(path)
                );
            }
            Ok(peer::merge(own, other, lang))
        })
        .collect()
}

fn known(code: Code) -> Result<&'static catalogue::Entry> {
    catalogue::entry(code)
        .with_context(|| format!("there is no check {code}; --list-checks shows all"))
}

fn list(lang: Lang) -> String {
    let line = |entry: &catalogue::Entry| {
        let code = entry.code.to_string();
        format!("{code:<4} {}\n", entry.title.in_lang(lang))
    };
    catalogue::entries().map(line).collect()
}

/// The language of messages (locale(7)).
fn user_language() -> Lang {
    let names = ["LC_ALL", "LC_MESSAGES", "LANG"];
    let set = names.iter().filter_map(|name| std::env::var(name).ok());
    let locale = set.into_iter().find(|value| !value.is_empty());
    locale.map_or(Lang::En, |locale| Lang::of_locale(&locale))
}
