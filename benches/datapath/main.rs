//! What a director costs per packet: contenders in turn, in one lab, on one core each.
//!
//! `cargo bench --bench datapath` floods a VIP with UDP and with the segments of TCP uploads and counts what
//! comes out behind the director, then measures round trips of single packets: the naive loop, the kernel's
//! plain forwarding and `tunlb run` by each of its ways out, interleaved, so that what disturbs the machine
//! disturbs all of them. Read the ratios; absolute figures belong to the machine and the hour.
//! The lab is drawn in `lab.rs`; it lives in namespaces of its own and ends with this process.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing the figures is what this program does"
)]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use contender::Contender;
use generator::{Generator, Load};
use lab::Lab;
use options::{Mode, Options};
use report::{Round, Sample, Table};

mod api_clients;
mod contender;
mod decap;
mod flood;
mod generator;
mod idle;
mod lab;
mod latency;
mod naive;
mod options;
mod overload;
mod report;
mod settings;
mod upload;

/// Set for the process inside the namespaces, so that it does not enter them again.
const INSIDE: &str = "TUNLB_BENCH_INSIDE";

/// How long a contender runs under load before it is measured, so that caches and queues are full.
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("datapath: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.mode == Mode::Naive {
        return naive::run();
    }
    if let Mode::ApiClients(path) = &options.mode {
        return api_clients::run(path);
    }
    if std::env::var_os(INSIDE).is_none() {
        return enter_namespaces();
    }
    let cores = std::thread::available_parallelism()?.get();
    ensure!(
        cores >= 2,
        "needs two cores, one for the generator and one for the director"
    );
    if options.mode == Mode::Decap {
        return decap::report(&options);
    }
    let lab = Lab::build().context("cannot build the lab")?;
    match options.mode {
        Mode::Compare => compare(&lab, &options),
        Mode::Overload => overload::report(&lab, &options),
        Mode::Idle => idle::report(&lab, options.rounds),
        Mode::Naive | Mode::ApiClients(_) | Mode::Decap => bail!("does not run in this lab"),
    }
}

/// Starts this program again in a network and a mount namespace of its own; returns on failure only.
fn enter_namespaces() -> Result<()> {
    // Some distributions have `ip` where the PATH of a user does not look.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    let mut unshare = Command::new("unshare");
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe()?);
    let error = unshare
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .env("PATH", path)
        .exec();
    Err(error).context("cannot run unshare (package util-linux)")
}

/// Every load, then single packets, of every contender that is to be measured; the files hold all of it.
fn compare(lab: &Lab, options: &Options) -> Result<()> {
    let contenders = contender::selected(options.only.as_deref())?;
    let mut tables = Vec::new();
    let fast: Vec<_> = contenders
        .iter()
        .filter(|contender| contender.is_for_throughput())
        .collect();
    let loads = if options.small {
        &Load::ALL[..1]
    } else {
        &Load::ALL[..]
    };
    for &load in loads {
        lab.let_generator_segment(load.segments())?;
        let title = load.title();
        let rounds = rounds(&title, &fast, options.rounds, |contender| {
            sample(lab, contender, load, options.seconds)
        })?;
        tables.push(Table::throughput(&title, &names(&fast), &rounds));
        tables.iter().last().inspect(|table| table.print());
    }
    if options.small {
        return write(&tables);
    }
    let single: Vec<_> = contenders
        .iter()
        .filter(|contender| contender.is_for_latency())
        .collect();
    lab.let_generator_segment(1)?;
    let rounds = rounds("round trip", &single, options.rounds, |contender| {
        latency::sample(lab, contender)
    })?;
    tables.push(latency::table(&names(&single), &rounds));
    tables.iter().last().inspect(|table| table.print());
    write(&tables)
}

fn write(tables: &[Table]) -> Result<()> {
    let [json, plot] = report::write(tables)?;
    println!("\n{}\n{}", json.display(), plot.display());
    Ok(())
}

fn names(contenders: &[&Contender]) -> Vec<&'static str> {
    contenders.iter().map(|contender| contender.name).collect()
}

/// Measures each contender once a round, each round beginning with another one; samples in their usual order.
fn rounds<S: Default + Clone>(
    title: &str,
    contenders: &[&Contender],
    rounds: usize,
    sample: impl Fn(&Contender) -> Result<S>,
) -> Result<Vec<Round<S>>> {
    let mut all = Vec::new();
    for number in 0..rounds {
        eprintln!("{title}, round {} of {rounds}", number + 1);
        let mut samples = vec![S::default(); contenders.len()];
        for turn in 0..contenders.len() {
            let index = (turn + number) % contenders.len();
            let contender = contenders[index];
            samples[index] =
                sample(contender).with_context(|| format!("cannot measure {}", contender.name))?;
        }
        all.push(samples);
    }
    Ok(all)
}

fn sample(lab: &Lab, contender: &Contender, load: Load, window: Duration) -> Result<Sample> {
    let director = contender.start(lab)?;
    let generator = Generator::start(lab, load)?;
    std::thread::sleep(WARM_UP);
    let moment = || -> Result<_> {
        Ok((
            Instant::now(),
            lab.received()?,
            director.cpu_time()?,
            generator.sent(),
        ))
    };
    let before = moment()?;
    std::thread::sleep(window);
    let after = moment()?;
    generator.stop()?;
    director.stop()?;
    let packets = after
        .1
        .packets_since(before.1, contender.overhead(), load.packet_bytes());
    ensure!(packets > 0, "nothing arrived behind the director");
    Ok(Sample::new(
        after.0 - before.0,
        packets,
        after.2.saturating_sub(before.2),
        after.3 - before.3,
    ))
}
