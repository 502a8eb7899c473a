//! What tunlb costs before any load: memory, start-up time, size on disk.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::contender::{start_tunlb, tunlb};
use crate::generator::connected_socket;
use crate::lab::Lab;
use crate::report::median;
use crate::settings::DEFAULT;

/// How long tunlb is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// Longest wait for a first packet.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints the medians of `rounds` starts.
///
/// # Errors
/// tunlb does not start, or forwards nothing.
pub(crate) fn report(lab: &Lab, rounds: usize) -> Result<()> {
    let (mut memory, mut start) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        start.push(time_to_first_packet(lab)?.as_secs_f64() * 1e3);
        memory.push(idle_memory_kib(lab)? / 1024.0);
    }
    let size = fs::metadata(tunlb()).context("no binary")?.len();
    println!(
        "idle resident memory          {:8.1} MiB",
        median(&mut memory)
    );
    println!(
        "start to first packet         {:8.1} ms",
        median(&mut start)
    );
    println!(
        "release binary                {:8.1} MiB",
        size as f64 / f64::from(1 << 20)
    );
    Ok(())
}

fn idle_memory_kib(lab: &Lab) -> Result<f64> {
    let process = start_tunlb(lab, DEFAULT)?;
    thread::sleep(SETTLE);
    let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS")?
        .parse()?;
    process.stop()?;
    Ok(kib)
}

/// From before the process is started until a packet has come out, with one packet offered every
/// 200 µs meanwhile.
fn time_to_first_packet(lab: &Lab) -> Result<Duration> {
    let before = lab.received()?;
    let socket = lab.generator.within(connected_socket)??;
    let started = Instant::now();
    thread::scope(|scope| {
        let arrival = scope.spawn(|| {
            while lab.received()? == before {
                ensure!(started.elapsed() < PATIENCE, "no packet came out");
                // Refused while the director has no route yet.
                socket.send(b"first").ok();
                thread::sleep(Duration::from_micros(200));
            }
            Ok(started.elapsed())
        });
        let process = start_tunlb(lab, DEFAULT)?;
        let elapsed = arrival
            .join()
            .map_err(|_| anyhow::anyhow!("the probe panicked"))??;
        process.stop()?;
        Ok(elapsed)
    })
}
