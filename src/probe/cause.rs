//! Why a backend does not answer: what a probe and its follow-ups found together, as a sentence and the rows of
//! `docs/doctor.md` that may tell more.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{ProbeResult, Verdict};

/// What is known of a backend that fails its probes. What was not asked is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The backend's own address.
    pub address: IpAddr,
    /// The port that is probed.
    pub port: u16,
    /// What the probe through the tunnel found.
    pub probe: ProbeResult,
    /// A TCP connection to that port of the backend's own address, without the tunnel.
    pub direct: Option<ProbeResult>,
    /// An echo request to the backend's own address.
    pub direct_ping: Option<ProbeResult>,
    /// An echo request to the VIP, through the tunnel.
    pub tunnel_ping: Option<ProbeResult>,
}

/// Why a backend does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// In a sentence, without a full stop.
    pub text: String,
    /// Rows of `docs/doctor.md`.
    pub codes: Vec<&'static str>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.codes.is_empty() {
            return Ok(());
        }
        write!(
            f,
            " ({}); run `tunlb doctor` on the backend",
            self.codes.join(", ")
        )
    }
}

/// Whether a machine answered at all, in whatever way.
fn lives(found: Option<ProbeResult>) -> bool {
    matches!(
        found,
        Some(
            ProbeResult::Ok | ProbeResult::Refused | ProbeResult::Reset | ProbeResult::ClosedEarly
        )
    )
}

impl Evidence {
    /// What it comes to; `None` where the backend answers, or nothing is known.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        if self.probe.verdict() != Some(Verdict::Failed) {
            return None;
        }
        let (text, codes) = self.judged();
        Some(Cause {
            text,
            codes: codes.to_vec(),
        })
    }

    fn judged(&self) -> (String, &'static [&'static str]) {
        let address = self.address;
        match self.probe {
            ProbeResult::NoDecapsulator => (
                format!(
                    "{address} does not decapsulate: it answers the tunnel with ICMP protocol unreachable"
                ),
                &["B1", "B3"],
            ),
            ProbeResult::TunnelPort => (
                format!("{address} does not decapsulate: nothing listens on the tunnel's UDP port"),
                &["B4"],
            ),
            ProbeResult::Prohibited => (
                format!("a filter between here and {address}, or on it, forbids the tunnel"),
                &["B19", "B20"],
            ),
            ProbeResult::Unreachable => (format!("packets to {address} find no way"), &["D38"]),
            ProbeResult::Refused => (
                "the VIP is reached through the tunnel, but nothing listens on its port".to_owned(),
                &["B30", "B31"],
            ),
            ProbeResult::Reset | ProbeResult::ClosedEarly => (
                "the service ended the connection before it answered".to_owned(),
                &[],
            ),
            ProbeResult::BadStatus
            | ProbeResult::BadBody
            | ProbeResult::TlsFailed
            | ProbeResult::BadAnswer => (
                "the service answers through the tunnel, but not as it should".to_owned(),
                &[],
            ),
            ProbeResult::NoAnswer
            | ProbeResult::Ok
            | ProbeResult::NoVerdict
            | ProbeResult::NoSource
            | ProbeResult::NoPort
            | ProbeResult::NoFd
            | ProbeResult::NotSent
            | ProbeResult::Late => self.silence(),
        }
    }

    fn silence(&self) -> (String, &'static [&'static str]) {
        let service = SocketAddr::new(self.address, self.port);
        let address = self.address;
        if self.tunnel_ping == Some(ProbeResult::Ok) {
            return (
                "the VIP answers pings through the tunnel, its service does not answer: its accept queue is full, it \
                 hangs, or a firewall drops its packets"
                    .to_owned(),
                &["B32", "B19"],
            );
        }
        if self.direct == Some(ProbeResult::Ok) {
            return (
                format!(
                    "no answer through the tunnel; {service} answers directly: VIP, rp_filter or firewall there"
                ),
                &["B5", "B10", "B11", "B19"],
            );
        }
        if lives(self.direct) || lives(self.direct_ping) {
            return (
                format!(
                    "no answer through the tunnel; {address} answers directly: decapsulation, VIP, rp_filter or firewall there"
                ),
                &["B2", "B5", "B10", "B11", "B19"],
            );
        }
        if self.direct.is_none() && self.direct_ping.is_none() {
            return (
                "no answer through the tunnel".to_owned(),
                &["B5", "B10", "B11", "B19"],
            );
        }
        (
            format!(
                "{address} answers nothing, neither through the tunnel nor directly: it is down, or not reached"
            ),
            &["B23"],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(
        probe: ProbeResult,
        direct: ProbeResult,
        direct_ping: ProbeResult,
        tunnel: ProbeResult,
    ) -> String {
        let evidence = Evidence {
            address: [10, 0, 1, 13].into(),
            port: 443,
            probe,
            direct: Some(direct),
            direct_ping: Some(direct_ping),
            tunnel_ping: Some(tunnel),
        };
        evidence
            .cause()
            .map(|cause| cause.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn what_was_found_together_tells_the_cause() {
        use ProbeResult::{BadStatus, NoAnswer, NoDecapsulator, NotSent, Ok, Refused};
        for (probe, direct, direct_ping, tunnel_ping, expected) in [
            (
                NoAnswer,
                Ok,
                Ok,
                NoAnswer,
                "10.0.1.13:443 answers directly: VIP, rp_filter or firewall there (B5, B10, B11, B19); run `tunlb doctor`",
            ),
            (
                NoAnswer,
                Refused,
                NoAnswer,
                NoAnswer,
                "10.0.1.13 answers directly",
            ),
            (
                NoAnswer,
                NoAnswer,
                Ok,
                NoAnswer,
                "10.0.1.13 answers directly",
            ),
            (NoAnswer, NoAnswer, NoAnswer, NoAnswer, "answers nothing"),
            (NoAnswer, Ok, Ok, Ok, "its accept queue is full"),
            (NoDecapsulator, Ok, Ok, NoAnswer, "does not decapsulate"),
            (Refused, Ok, Ok, Ok, "nothing listens on its port (B30"),
            (BadStatus, Ok, Ok, Ok, "not as it should"),
        ] {
            let text = cause(probe, direct, direct_ping, tunnel_ping);
            assert!(
                text.contains(expected),
                "{probe} {direct} {direct_ping} {tunnel_ping}: {text}"
            );
        }
        assert_eq!(cause(Ok, Ok, Ok, Ok), "");
        assert_eq!(cause(NotSent, Ok, Ok, Ok), "");
    }
}
