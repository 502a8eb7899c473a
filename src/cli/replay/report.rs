//! What a replay prints: a line per packet, a summary.

use std::fmt::Write as _;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::core::Answer;
use crate::daemon::Totals;
use crate::io::pcap::Record;

/// What is printed for each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Silent,
    Text,
    Json,
}

/// The line of a packet; its fields are documented in `docs/replay.md`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    packet: u64,
    verdict: &'static str,
    reason: Option<&'static str>,
    vip: Option<&'a str>,
    backend: Option<IpAddr>,
    emitted: u64,
}

/// Lines to stdout, until its reader has had enough.
#[derive(Debug)]
pub(super) struct Lines {
    style: Style,
    /// `None` once the reader closed the pipe.
    out: Option<BufWriter<StdoutLock<'static>>>,
}

impl Lines {
    pub(super) fn new(style: Style) -> Self {
        Self {
            style,
            out: Some(BufWriter::new(io::stdout().lock())),
        }
    }

    /// Whether nobody reads any more.
    pub(super) const fn is_closed(&self) -> bool {
        self.out.is_none()
    }

    /// Prints the line of packet number `packet`.
    ///
    /// # Errors
    /// Stdout cannot be written, but for a pipe that was closed.
    pub(super) fn write(&mut self, packet: u64, answer: &Answer<'_>) -> Result<()> {
        let style = self.style;
        self.attempt(|out| match style {
            Style::Silent => Ok(()),
            Style::Text => writeln!(out, "{}", text(packet, answer)),
            Style::Json => {
                let line = Line {
                    packet,
                    verdict: answer.verdict,
                    reason: answer.reason,
                    vip: answer.vip,
                    backend: answer.backend,
                    emitted: answer.emitted,
                };
                serde_json::to_writer(&mut *out, &line)?;
                out.write_all(b"\n")
            }
        })
    }

    /// Prints what is still buffered.
    ///
    /// # Errors
    /// As of [`write`](Self::write).
    pub(super) fn flush(&mut self) -> Result<()> {
        self.attempt(|out| out.flush())
    }

    fn attempt(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let Some(out) = &mut self.out else {
            return Ok(());
        };
        match write(out) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.out = None;
                Ok(())
            }
            written => written.context("cannot write to stdout"),
        }
    }
}

fn text(packet: u64, answer: &Answer<'_>) -> String {
    let mut line = format!("{packet}: {}", answer.verdict);
    // Writing to a string cannot fail.
    if let Some(reason) = answer.reason {
        write!(line, " {reason}").unwrap_or_default();
    }
    if let Some(vip) = answer.vip {
        write!(line, " vip {vip}").unwrap_or_default();
    }
    if let Some(backend) = answer.backend {
        write!(line, " backend {backend}").unwrap_or_default();
    }
    if answer.emitted > 1 {
        write!(line, " emitted {}", answer.emitted).unwrap_or_default();
    }
    line
}

/// What the capture held.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) packets: u64,
    /// Of those, frames without an IP packet.
    not_ip: u64,
    /// Of those, packets of which the capture holds only the start.
    cut: u64,
}

impl Tally {
    pub(super) fn count(&mut self, record: &Record<'_>) {
        self.packets += 1;
        self.not_ip += u64::from(record.network_packet().is_err());
        self.cut += u64::from(record.is_cut());
    }

    /// Where all packets went. What went nowhere yet are fragments that wait.
    pub(super) fn summary(&self, totals: &Totals) -> String {
        let backends = totals.vips.iter().flat_map(|vip| &vip.backends);
        let sent: u64 = backends.map(|backend| backend.traffic.packets).sum();
        let dropped: u64 = totals.drops.iter().map(|(_, packets)| packets).sum();
        let accounted = sent + dropped + totals.replied;
        let waiting = self.packets.saturating_sub(accounted);
        let mut summary = format!("replayed {} packets\n{totals}", self.packets);
        if self.not_ip > 0 {
            let line = format!(
                "{} of malformed were frames without IP, such as ARP\n",
                self.not_ip
            );
            summary.push_str(&line);
        }
        if waiting > 0 {
            let line = format!(
                "held {waiting} fragments that still waited for others of their datagram\n"
            );
            summary.push_str(&line);
        }
        summary
    }

    /// What makes the answer doubtful.
    pub(super) fn warning(&self) -> Option<String> {
        let Self { packets, cut, .. } = self;
        (*cut > 0).then(|| {
            format!(
                "warning: {cut} of {packets} packets are cut in the capture and may count as \
                 malformed for it; capture whole packets (tcpdump -s 0)"
            )
        })
    }
}
