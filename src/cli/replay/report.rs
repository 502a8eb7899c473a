//! What a replay prints: a line per packet, a summary.

use std::fmt::Write as _;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::core::Answer;
use crate::daemon::Totals;
use crate::io::pcap::{Record, Resolution};
use crate::packet::{FlowKey, Packet};
use crate::text::count;

/// What is printed for each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Silent,
    Text,
    Json,
}

/// The version of the lines; a change that breaks a reader raises it.
const SCHEMA: u32 = 1;

/// The line of a packet; its fields are documented in `docs/replay.md`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    packet: u64,
    verdict: &'static str,
    reason: Option<&'static str>,
    vip: Option<&'a str>,
    backend: Option<IpAddr>,
    emitted: u64,
    schema: u32,
    time: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    protocol: Option<String>,
}

/// Lines to a stream, until its reader has had enough.
pub(super) struct Lines {
    style: Style,
    /// `None` once the reader closed the pipe.
    out: Option<BufWriter<Box<dyn Write>>>,
}

impl Lines {
    pub(super) fn to_stdout(style: Style) -> Self {
        let out: Box<dyn Write> = Box::new(io::stdout().lock());
        let out = Some(BufWriter::new(out));
        Self { style, out }
    }

    /// For when packets go to stdout.
    pub(super) fn to_stderr(style: Style) -> Self {
        let out: Box<dyn Write> = Box::new(io::stderr());
        let out = Some(BufWriter::new(out));
        Self { style, out }
    }

    /// Whether nobody reads any more.
    pub(super) const fn is_closed(&self) -> bool {
        self.out.is_none()
    }

    /// Prints the line of packet number `packet`.
    ///
    /// # Errors
    /// The stream cannot be written, but for a pipe that was closed.
    pub(super) fn write(
        &mut self,
        packet: u64,
        record: &Record<'_>,
        answer: &Answer<'_>,
    ) -> Result<()> {
        let style = self.style;
        self.attempt(|out| match style {
            Style::Silent => Ok(()),
            Style::Text => writeln!(out, "{}", text(packet, record, answer)),
            Style::Json => {
                let ends = Ends::of(record);
                let line = Line {
                    packet,
                    verdict: answer.verdict,
                    reason: answer.reason,
                    vip: answer.vip,
                    backend: answer.backend,
                    emitted: answer.emitted,
                    schema: SCHEMA,
                    time: record.timestamp.map(|time| seconds(time, Resolution::Nano)),
                    source: ends.as_ref().map(Ends::source),
                    destination: ends.as_ref().map(Ends::destination),
                    protocol: ends.as_ref().map(Ends::protocol),
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
            written => written.context("cannot write the line of a packet"),
        }
    }
}

fn text(packet: u64, record: &Record<'_>, answer: &Answer<'_>) -> String {
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
    if let Some(ends) = Ends::of(record) {
        let [source, destination] = [ends.source(), ends.destination()];
        let protocol = ends.protocol();
        write!(line, ", {source} > {destination}/{protocol}").unwrap_or_default();
    }
    if let Some(time) = record.timestamp {
        let time = seconds(time, record.resolution);
        write!(line, ", at {time}").unwrap_or_default();
    }
    line
}

/// Seconds since 1970, as tcpdump -tt and tshark write them.
fn seconds(time: Duration, resolution: Resolution) -> String {
    let seconds = time.as_secs();
    match resolution {
        Resolution::Micro => format!("{seconds}.{:06}", time.subsec_micros()),
        Resolution::Nano => format!("{seconds}.{:09}", time.subsec_nanos()),
    }
}

/// From where to where a packet goes.
struct Ends<'a> {
    packet: Packet<'a>,
    /// With the ports, where it has some.
    flow: Option<FlowKey>,
}

impl<'a> Ends<'a> {
    /// `None` where the network header cannot be read.
    fn of(record: &Record<'a>) -> Option<Self> {
        let packet = Packet::parse(record.network_packet().ok()?).ok()?;
        let flow = packet.flow();
        Some(Self { packet, flow })
    }

    fn source(&self) -> String {
        end(self.packet.source(), self.flow.map(|flow| flow.source_port))
    }

    fn destination(&self) -> String {
        let port = self.flow.map(|flow| flow.destination_port);
        end(self.packet.destination(), port)
    }

    /// Its name; the number of one that the director does not know.
    fn protocol(&self) -> String {
        match (self.packet.protocol(), self.packet.source()) {
            (6, _) => "tcp".to_owned(),
            (17, _) => "udp".to_owned(),
            (1, IpAddr::V4(_)) => "icmp".to_owned(),
            (58, IpAddr::V6(_)) => "icmpv6".to_owned(),
            (number, _) => number.to_string(),
        }
    }
}

fn end(address: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    }
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
        let mut summary = format!("replayed {}\n{totals}", count(self.packets, "packet"));
        if self.not_ip > 0 {
            let frames = count(self.not_ip, "frame");
            summary.push_str(&format!("malformed: {frames} without IP, such as ARP\n"));
        }
        if waiting > 0 {
            let waiting = count(waiting, "fragment");
            let line = format!("held {waiting} that still waited for others of their datagram\n");
            summary.push_str(&line);
        }
        summary
    }

    /// What makes the answer doubtful.
    pub(super) fn warning(&self) -> Option<String> {
        let Self { packets, cut, .. } = self;
        (*cut > 0).then(|| {
            format!(
                "warning: {cut} of {} cut short in the capture, which may make them malformed; \
                 capture whole packets (tcpdump -s 0)",
                count(*packets, "packet")
            )
        })
    }
}
