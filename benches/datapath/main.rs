//! What a director costs per packet: contenders in turn, in one lab, on one core each.
//!
//! `cargo bench --bench datapath` floods a VIP with UDP and counts what comes out behind the director:
//! the naive loop, the kernel's plain forwarding and `tunlb run`, interleaved, so that what disturbs the
//! machine disturbs all of them. Read the ratios; absolute figures belong to the machine and the hour.
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
use generator::Generator;
use lab::Lab;
use options::{Mode, Options};
use report::{Round, Sample};

mod contender;
mod decap;
mod flood;
mod generator;
mod idle;
mod lab;
mod naive;
mod options;
mod report;

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
        Mode::Throughput => throughput(&lab, &options),
        Mode::Idle => idle::report(&lab, options.rounds),
        Mode::Naive | Mode::Decap => bail!("does not run in this lab"),
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

fn throughput(lab: &Lab, options: &Options) -> Result<()> {
    let contenders = contender::selected(options.only.as_deref())?;
    for packet_bytes in generator::PACKET_BYTES {
        let mut rounds = Vec::new();
        for number in 0..options.rounds {
            eprintln!(
                "{packet_bytes}-byte UDP, round {} of {}",
                number + 1,
                options.rounds
            );
            rounds.push(round(
                lab,
                &contenders,
                number,
                packet_bytes,
                options.seconds,
            )?);
        }
        report::print_table(packet_bytes, &contenders, &rounds);
    }
    Ok(())
}

/// Measures each contender once, each round beginning with another one; samples in their usual order.
fn round(
    lab: &Lab,
    contenders: &[Contender],
    number: usize,
    packet_bytes: usize,
    window: Duration,
) -> Result<Round> {
    let mut samples = vec![Sample::default(); contenders.len()];
    for turn in 0..contenders.len() {
        let index = (turn + number) % contenders.len();
        let contender = &contenders[index];
        samples[index] = sample(lab, contender, packet_bytes, window)
            .with_context(|| format!("cannot measure {}", contender.name))?;
    }
    Ok(samples)
}

fn sample(
    lab: &Lab,
    contender: &Contender,
    packet_bytes: usize,
    window: Duration,
) -> Result<Sample> {
    let director = (contender.start)(lab)?;
    let generator = Generator::start(lab, packet_bytes)?;
    std::thread::sleep(WARM_UP);
    let before = (
        Instant::now(),
        lab.received()?,
        director.cpu_time()?,
        generator.sent(),
    );
    std::thread::sleep(window);
    let after = (
        Instant::now(),
        lab.received()?,
        director.cpu_time()?,
        generator.sent(),
    );
    generator.stop()?;
    director.stop()?;
    let packets = after.1 - before.1;
    ensure!(packets > 0, "nothing arrived behind the director");
    Ok(Sample::new(
        after.0 - before.0,
        packets,
        after.2.saturating_sub(before.2),
        after.3 - before.3,
    ))
}
