//! `tunlb doctor`: why does the backend get the packet and the client no answer?
//!
//! Looks at this machine, or takes the facts of a bundle, judges them, and reports. Changes nothing
//! unless `--fix --apply` or `--persist` ask for it (`mend`).

mod mend;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::source::complain_about;
use super::{BAD_NEWS, NO_WORK, parse_protocol, print};
use crate::config::{Config, ConfigError};
use crate::doctor::facts::{Encap, Facts, Role};
use crate::doctor::finding::{Code, Diagnosis, Status};
use crate::doctor::gather::{self, BackendOptions, FoundRole, Service};
use crate::doctor::report::Style;
use crate::doctor::report::json::Document;
use crate::doctor::report::text::{self, Detail};
use crate::doctor::{Lang, Selection, Target, bundle, catalogue, judge, peer};

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

    /// Write what was seen and found into a file, for a colleague or --from-bundle
    #[arg(long, value_name = "FILE.tar.zst", conflicts_with = "from_bundle")]
    pub bundle: Option<PathBuf>,

    /// Judge what was seen on another machine instead of this one
    #[arg(long, value_name = "FILE.tar.zst", conflicts_with_all = ["vip", "client", "director", "config", "encap"])]
    pub from_bundle: Option<PathBuf>,

    /// What --json printed on the tunnel's other end: both become one verdict
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
    if args.apply || args.persist {
        return mend::run(args, lang);
    }
    let Some((machines, mut diagnoses)) = diagnose(args, lang)? else {
        return Ok(ExitCode::from(BAD_NEWS));
    };
    if let (Some(path), [facts, ..]) = (&args.bundle, machines.as_slice()) {
        write_bundle(path, facts, &diagnoses)?;
    }
    if let Some(path) = &args.peer {
        diagnoses = with_peer(path, diagnoses, lang)?;
    }
    print_all(args, &diagnoses, lang)?;
    Ok(exit_code(&diagnoses))
}

/// What was seen and what it comes to, the worst first; nothing where the configuration is invalid, once
/// every problem is printed.
fn diagnose(args: &Args, lang: Lang) -> Result<Option<(Vec<Facts>, Vec<Diagnosis>)>> {
    let Some(machines) = look(args)? else {
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
    if args.fix {
        return print(&text::fixes(diagnoses));
    }
    print_report(args, diagnoses, lang)
}

fn document(diagnoses: &[Diagnosis]) -> Result<Document> {
    Document::new(diagnoses)
        .context("no VIP was found on this machine; name one: --vip ADDR:PORT/PROTO")
}

fn print_report(args: &Args, diagnoses: &[Diagnosis], lang: Lang) -> Result<()> {
    let style = Style {
        width: terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0)),
        detail: if args.verbose {
            Detail::All
        } else {
            Detail::Notable
        },
        lang,
    };
    print_styled(&text::report(diagnoses, style))
}

/// Columns where there is no terminal.
const WIDTH: usize = 100;

/// Prints with colours on a terminal and never with NO_COLOR.
fn print_styled(text: &str) -> Result<()> {
    let choice = anstream::AutoStream::choice(&std::io::stdout());
    if choice == anstream::ColorChoice::Never {
        print(&anstream::adapter::strip_str(text).to_string())
    } else {
        print(text)
    }
}

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
fn look(args: &Args) -> Result<Option<Vec<Facts>>> {
    if let Some(path) = &args.from_bundle {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let facts =
            bundle::read(&bytes).with_context(|| format!("cannot use {}", path.display()))?;
        return Ok(Some(vec![facts]));
    }
    let mut machines = Vec::new();
    for role in roles(args)? {
        match role {
            Role::Backend => machines.push(beside(machines.first(), look_at_backend(args))),
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

/// One look for all VIPs, or one for each that was named.
fn look_at_backend(args: &Args) -> Facts {
    let options = |service| BackendOptions {
        service,
        client: args.client,
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
    let Some(path) = args.config.clone().or_else(running_configuration) else {
        bail!("the director's configuration is not known; name it: -c FILE");
    };
    match Config::load(&path) {
        Ok(config) => Ok(Some(gather::director(&config))),
        Err(ConfigError::Invalid(problems)) => {
            complain_about(&problems);
            Ok(None)
        }
        Err(error @ ConfigError::Read { .. }) => Err(error.into()),
    }
}

/// The file that the running director was started with.
fn running_configuration() -> Option<PathBuf> {
    let directors = gather::running_directors();
    let (_, arguments) = directors.first()?;
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "-c" || argument == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument
            .strip_prefix("--config=")
            .or(argument.strip_prefix("-c"))
        {
            return Some(PathBuf::from(path));
        }
    }
    None
}

fn write_bundle(path: &Path, facts: &Facts, diagnoses: &[Diagnosis]) -> Result<()> {
    let bytes = bundle::write(facts, diagnoses)?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn with_peer(path: &Path, own: Vec<Diagnosis>, lang: Lang) -> Result<Vec<Diagnosis>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let document =
        Document::parse(&text).with_context(|| format!("cannot use {}", path.display()))?;
    own.into_iter()
        .map(|own| {
            // The other end's findings about the same VIP, or its only ones.
            let same = document.diagnoses().find(|other| other.vip == own.vip);
            let other = same.unwrap_or(&document.worst).clone();
            if other.role == own.role {
                bail!(
                    "{} is about the same end of the tunnel as this machine",
                    path.display()
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

fn parse_code(text: &str) -> Result<Code, String> {
    text.parse()
        .map_err(|error: crate::doctor::finding::CodeError| error.to_string())
}

fn parse_service(text: &str) -> Result<Service, String> {
    let parse = || {
        let (address, protocol) = text.rsplit_once('/')?;
        let protocol = parse_protocol(protocol)?;
        let (address, port) = address.rsplit_once(':')?;
        let port = match port {
            "any" => None,
            number => Some(number.parse().ok().filter(|port| *port != 0)?),
        };
        let bracketed = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let address = match bracketed {
            Some(inner) => IpAddr::V6(inner.parse().ok()?),
            None => IpAddr::V4(address.parse().ok()?),
        };
        Some(Service {
            address,
            port,
            protocol,
        })
    };
    parse().ok_or_else(|| {
        "not ADDR:PORT/PROTO such as 203.0.113.10:80/tcp or [2001:db8::10]:any/udp".to_owned()
    })
}

/// The port of GUE where none is named (draft-ietf-intarea-gue §5.9).
const GUE_PORT: u16 = 6080;

fn parse_encap(text: &str) -> Result<Encap, String> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    let encap = match text.split_once(':') {
        None if text == "ipip" => Some(Encap::Ipip),
        None if text == "gue" => Some(Encap::Gue(GUE_PORT)),
        Some(("gue", number)) => port(number).map(Encap::Gue),
        Some(_) | None => None,
    };
    encap.ok_or_else(|| "not ipip, gue or gue:PORT".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        let service = |text| {
            let service: Service = parse_service(text)?;
            Ok::<_, String>((service.address.to_string(), service.port))
        };
        assert_eq!(
            service("203.0.113.10:80/tcp"),
            Ok(("203.0.113.10".to_owned(), Some(80)))
        );
        assert_eq!(
            service("[2001:db8::10]:any/udp"),
            Ok(("2001:db8::10".to_owned(), None))
        );
        for bad in [
            "203.0.113.10",
            "203.0.113.10:0/tcp",
            "2001:db8::1:80/tcp",
            "10.0.0.1:80/sctp",
        ] {
            assert!(service(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tunnels() {
        assert_eq!(parse_encap("gue:6081"), Ok(Encap::Gue(6081)));
        assert_eq!(parse_encap("gue"), Ok(Encap::Gue(6080)));
        for bad in ["gre", "gue:0", "ipip:4"] {
            assert!(parse_encap(bad).is_err(), "{bad}");
        }
    }
}
