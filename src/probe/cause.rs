//! Why a backend does not answer: what a probe and its follow-ups found together, as a sentence and the rows of
//! `docs/doctor.md` that may tell more.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::sighting::{Answer, Detour, InnerError, Keeper, Sighting};
use super::{ProbeResult, Verdict};

/// What is known of a backend that fails its probes. What was not asked or not seen is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The VIP's address.
    pub vip: IpAddr,
    /// The backend's own address.
    pub address: IpAddr,
    /// The port that is probed.
    pub port: u16,
    /// What the probe through the tunnel found.
    pub probe: ProbeResult,
    /// Whether the service's host took the probe's connection.
    pub connected: bool,
    /// A TCP connection to that port of the backend's own address, without the tunnel.
    pub direct: Option<ProbeResult>,
    /// An echo request to the backend's own address.
    pub direct_ping: Option<ProbeResult>,
    /// An echo request to the VIP, through the tunnel.
    pub tunnel_ping: Option<ProbeResult>,
    /// What came back for the probe.
    pub answer: Option<Sighting>,
    /// What came back for the echo request through the tunnel.
    pub pong: Option<Sighting>,
    /// Whether the probe or the echo request itself came back, out of the tunnel.
    pub returned: bool,
    /// An ICMP error of the backend about a packet from the tunnel.
    pub inner_error: Option<InnerError>,
    /// What kept an answer that arrived from its socket.
    pub kept_by: Option<Keeper>,
    /// How a probe that was not sent went astray.
    pub detour: Option<Detour>,
    /// What packets of full size found.
    pub size: Option<SizeFound>,
}

/// What packets of full size found of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeFound {
    /// Bytes of the longest inner packet that is to fit.
    pub wanted: u16,
    /// What became of one that long.
    pub full: ProbeResult,
    /// Bytes of the longest that got through, where one that long did not and shorter ones do.
    pub fits: Option<u16>,
    /// Who says by ICMP that packets are too long, and the MTU that it names; the address is absent where this
    /// host's own kernel says so.
    pub told: Option<(Option<IpAddr>, u32)>,
}

/// Why a backend does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// In a sentence, without a full stop.
    pub text: String,
    /// Rows of `docs/doctor.md`.
    pub codes: Vec<&'static str>,
}

impl Cause {
    fn new(text: impl Into<String>, codes: &[&'static str]) -> Self {
        Self {
            text: text.into(),
            codes: codes.to_vec(),
        }
    }

    /// Whether it is to be looked for on this host rather than on the backend.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.codes.first().is_some_and(|code| code.starts_with('D'))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.codes.is_empty() {
            return Ok(());
        }
        let place = if self.is_here() {
            "on this host"
        } else {
            "on the backend"
        };
        write!(
            f,
            " ({}); run `tunlb doctor` {place}",
            self.codes.join(", ")
        )
    }
}

impl SizeFound {
    /// Why long packets do not get through, where shorter ones do.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        let fits = self.fits?;
        let wanted = self.wanted;
        let text = match self.told {
            None => format!(
                "packets of {wanted} bytes do not get through the tunnel, those of {fits} do, and nobody says so: an MTU \
                 black hole"
            ),
            Some((Some(router), mtu)) => format!(
                "packets of {wanted} bytes do not get through the tunnel, those of {fits} do: {router} says by ICMP that \
                 its next link takes {mtu}"
            ),
            Some((None, mtu)) => format!(
                "packets of {wanted} bytes do not get through the tunnel, those of {fits} do: this host knows that the \
                 path takes {mtu}"
            ),
        };
        Some(Cause::new(text, &["B24"]))
    }

    /// Whether nobody says that long packets do not get through, so that those who send them do not learn of it.
    #[must_use]
    pub const fn is_black_hole(&self) -> bool {
        self.fits.is_some() && self.told.is_none()
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
    /// Of a backend of which only the probe's result is known.
    #[must_use]
    pub const fn of(vip: IpAddr, (address, port): (IpAddr, u16), probe: ProbeResult) -> Self {
        Self {
            vip,
            address,
            port,
            probe,
            connected: false,
            direct: None,
            direct_ping: None,
            tunnel_ping: None,
            answer: None,
            pong: None,
            returned: false,
            inner_error: None,
            kept_by: None,
            detour: None,
            size: None,
        }
    }

    /// What it comes to; `None` where the backend answers, or nothing is known.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        match self.probe.verdict() {
            Some(Verdict::Failed) => Some(self.judged()),
            Some(Verdict::Passed) => None,
            None => self.astray(),
        }
    }

    fn judged(&self) -> Cause {
        let address = self.address;
        if self.returned {
            // What circles until its TTL ends is reported as unreachable, too.
            let text = format!(
                "{address} decapsulates, and sends the packet on instead of taking it: the VIP is missing there, and it \
                 forwards"
            );
            return Cause::new(text, &["B6"]);
        }
        if let Some(error) = self.inner_error.filter(InnerError::is_no_route) {
            let text = format!(
                "{address} decapsulates, and {} has no route for the packet: the VIP is missing there, and it forwards",
                error.from
            );
            return Cause::new(text, &["B6"]);
        }
        if let Some(error) = self.inner_error.filter(InnerError::is_prohibited) {
            let text =
                format!("{address} decapsulates, and a firewall there rejects the packet: {error}");
            return Cause::new(text, &["B19"]);
        }
        match self.probe {
            ProbeResult::NoDecapsulator => Cause::new(
                format!(
                    "{address} does not decapsulate: it answers the tunnel with ICMP protocol unreachable"
                ),
                &["B1", "B2", "B3"],
            ),
            ProbeResult::TunnelPort => Cause::new(
                format!("{address} does not decapsulate: nothing listens on the tunnel's UDP port"),
                &["B4"],
            ),
            ProbeResult::Prohibited => Cause::new(
                format!("a filter between here and {address}, or on it, forbids the tunnel"),
                &["B19", "B20"],
            ),
            ProbeResult::Unreachable => {
                Cause::new(format!("packets to {address} find no way"), &["D38"])
            }
            ProbeResult::Refused => self.refused(),
            ProbeResult::Reset | ProbeResult::ClosedEarly => {
                Cause::new("the service ended the connection before it answered", &[])
            }
            ProbeResult::BadStatus
            | ProbeResult::BadBody
            | ProbeResult::TlsFailed
            | ProbeResult::CertificateName
            | ProbeResult::CertificateExpired
            | ProbeResult::CertificateUntrusted
            | ProbeResult::BadAnswer => Cause::new(
                "the service answers through the tunnel, but not as it should",
                &[],
            ),
            ProbeResult::NoAnswer
            | ProbeResult::Ok
            | ProbeResult::NoVerdict
            | ProbeResult::NoSource
            | ProbeResult::NoPort
            | ProbeResult::NoFd
            | ProbeResult::NotSent
            | ProbeResult::Late => self.seen().unwrap_or_else(|| self.silence()),
        }
    }

    /// A reset with another TTL than what the VIP's machine sends is from another one.
    fn refused(&self) -> Cause {
        if let (Some(reset), Some(pong)) = (&self.answer, &self.pong)
            && reset.what == Answer::Reset
            && reset.ttl != pong.ttl
        {
            let text = format!(
                "something between the backend and here refuses: the reset came with TTL {}, the VIP's answers come \
                 with {}",
                reset.ttl, pong.ttl
            );
            return Cause::new(text, &["B19"]);
        }
        Cause::new(
            "the VIP is reached through the tunnel, but nothing listens on its port",
            &["B30"],
        )
    }

    /// What the packets tell that came in, though nothing reached the socket.
    fn seen(&self) -> Option<Cause> {
        let address = self.address;
        let arrived = self.answer.as_ref().or(self.pong.as_ref())?;
        if arrived.from != self.vip {
            let (why, code) = match arrived.what {
                Answer::Datagram => ("its service answers from there", "B31"),
                Answer::SynAck
                | Answer::Reset
                | Answer::Segment
                | Answer::EchoReply
                | Answer::Error(..) => ("masqueraded there", "B22"),
            };
            let text = format!(
                "{address} answers from {} instead of the VIP: {why}",
                arrived.from
            );
            return Some(Cause::new(text, &[code]));
        }
        let keeper = self.kept_by?;
        let text = format!(
            "the answer came by {} and was dropped by {keeper} there",
            arrived.device
        );
        Some(Cause::new(text, &["D36"]))
    }

    fn silence(&self) -> Cause {
        let service = SocketAddr::new(self.address, self.port);
        let address = self.address;
        if self.connected {
            return Cause::new(
                "the VIP takes the connection through the tunnel, its service does not answer: it hangs, or has too much \
                 to do",
                &["B32"],
            );
        }
        if self.tunnel_ping == Some(ProbeResult::Ok) {
            return Cause::new(
                "the VIP answers pings through the tunnel, its service does not answer: its accept queue is full, or a \
                 firewall drops its packets",
                &["B32", "B19"],
            );
        }
        if self.direct == Some(ProbeResult::Ok) {
            return Cause::new(
                format!(
                    "no answer through the tunnel; {service} answers directly: VIP, rp_filter or firewall there"
                ),
                &["B5", "B10", "B11", "B19"],
            );
        }
        if lives(self.direct) || lives(self.direct_ping) {
            return Cause::new(
                format!(
                    "no answer through the tunnel; {address} answers directly: decapsulation, VIP, rp_filter or firewall there"
                ),
                &["B2", "B5", "B10", "B11", "B19"],
            );
        }
        if self.direct.is_none() && self.direct_ping.is_none() {
            return Cause::new("no answer through the tunnel", &["B5", "B10", "B11", "B19"]);
        }
        Cause::new(
            format!(
                "{address} answers nothing, neither through the tunnel nor directly: it is down, or not reached"
            ),
            &["B23"],
        )
    }

    /// Why a probe did not leave as it should.
    fn astray(&self) -> Option<Cause> {
        let vip = self.vip;
        let text = match self.detour.as_ref()? {
            Detour::Masqueraded(source) => format!(
                "a rule of this host rewrites the source of its packets to {vip} to {source} (MASQUERADE or SNAT without \
                 an exception)"
            ),
            Detour::Device(device) => format!(
                "this host sends its packets to {vip} by {device}, past the probe device: a rule of its own leads or \
                 rewrites them"
            ),
            Detour::Nowhere => format!(
                "this host sends nothing to {vip}: a firewall rule of its own drops what it sends"
            ),
        };
        Some(Cause::new(text, &["D36"]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(probe: ProbeResult) -> Evidence {
        let own = ([10, 0, 1, 13].into(), 443);
        Evidence::of([10, 0, 0, 100].into(), own, probe)
    }

    fn cause(
        probe: ProbeResult,
        direct: ProbeResult,
        direct_ping: ProbeResult,
        tunnel: ProbeResult,
    ) -> String {
        let evidence = Evidence {
            direct: Some(direct),
            direct_ping: Some(direct_ping),
            tunnel_ping: Some(tunnel),
            ..evidence(probe)
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

    fn inner_error(kind: u8, code: u8) -> Option<InnerError> {
        let from = [10, 0, 1, 13].into();
        Some(InnerError { from, kind, code })
    }

    fn sighting(what: Answer, from: [u8; 4], ttl: u8) -> Option<Sighting> {
        Some(Sighting {
            what,
            from: from.into(),
            device: "eth1".into(),
            ttl,
        })
    }

    #[test]
    fn what_came_by_on_the_wire_tells_more() {
        use ProbeResult::{NoAnswer, NotSent, Ok, Refused};
        const VIP: [u8; 4] = [10, 0, 0, 100];
        let silent = || evidence(NoAnswer);
        let syn_ack = || sighting(Answer::SynAck, VIP, 63);
        let pong = || sighting(Answer::EchoReply, VIP, 63);
        for (evidence, expected) in [
            (
                Evidence {
                    answer: syn_ack(),
                    kept_by: Some(Keeper::ReversePath),
                    ..silent()
                },
                "the answer came by eth1 and was dropped by rp_filter there (D36); run `tunlb doctor` on this host",
            ),
            (
                Evidence {
                    pong: pong(),
                    kept_by: Some(Keeper::Filter),
                    ..silent()
                },
                "the answer came by eth1 and was dropped by a firewall there (D36)",
            ),
            (
                Evidence {
                    answer: sighting(Answer::SynAck, [10, 0, 1, 13], 63),
                    ..silent()
                },
                "10.0.1.13 answers from 10.0.1.13 instead of the VIP: masqueraded there (B22); run `tunlb doctor` on the backend",
            ),
            (
                Evidence {
                    answer: sighting(Answer::Datagram, [10, 0, 1, 13], 63),
                    ..silent()
                },
                "its service answers from there (B31)",
            ),
            (
                Evidence {
                    returned: true,
                    ..silent()
                },
                "sends the packet on instead of taking it: the VIP is missing there, and it forwards (B6)",
            ),
            (
                Evidence {
                    returned: true,
                    ..evidence(ProbeResult::Unreachable)
                },
                "the VIP is missing there, and it forwards (B6)",
            ),
            (
                Evidence {
                    inner_error: inner_error(3, 0),
                    ..evidence(ProbeResult::Unreachable)
                },
                "10.0.1.13 decapsulates, and 10.0.1.13 has no route for the packet: the VIP is missing there, and it forwards (B6)",
            ),
            (
                Evidence {
                    inner_error: inner_error(3, 10),
                    ..evidence(ProbeResult::Unreachable)
                },
                "10.0.1.13 decapsulates, and a firewall there rejects the packet: ICMP error 3/10 from 10.0.1.13 (B19)",
            ),
            (
                evidence(ProbeResult::Unreachable),
                "packets to 10.0.1.13 find no way (D38)",
            ),
            (
                Evidence {
                    inner_error: inner_error(3, 1),
                    ..silent()
                },
                "10.0.1.13 decapsulates, and 10.0.1.13 has no route for the packet: the VIP is missing there, and it forwards (B6)",
            ),
            (
                Evidence {
                    connected: true,
                    answer: syn_ack(),
                    tunnel_ping: Some(Ok),
                    ..silent()
                },
                "its service does not answer: it hangs, or has too much to do (B32)",
            ),
            (
                Evidence {
                    answer: sighting(Answer::Reset, VIP, 250),
                    pong: pong(),
                    ..evidence(Refused)
                },
                "something between the backend and here refuses: the reset came with TTL 250, the VIP's answers come with 63 (B19)",
            ),
            (
                Evidence {
                    answer: sighting(Answer::Reset, VIP, 63),
                    pong: pong(),
                    ..evidence(Refused)
                },
                "nothing listens on its port (B30)",
            ),
            (
                Evidence {
                    detour: Some(Detour::Masqueraded([192, 0, 2, 1].into())),
                    ..evidence(NotSent)
                },
                "rewrites the source of its packets to 10.0.0.100 to 192.0.2.1",
            ),
            (
                Evidence {
                    detour: Some(Detour::Nowhere),
                    ..evidence(NotSent)
                },
                "this host sends nothing to 10.0.0.100",
            ),
        ] {
            let text = evidence.cause().unwrap().to_string();
            assert!(text.contains(expected), "{evidence:?}: {text}");
        }
    }

    #[test]
    fn an_mtu_that_nobody_tells_of_is_a_black_hole() {
        let found = |fits, told| SizeFound {
            wanted: 1480,
            full: ProbeResult::NoAnswer,
            fits,
            told,
        };
        let router = Some((Some([10, 0, 1, 1].into()), 1400));
        for (found, is_black_hole, words) in [
            (found(None, None), false, ""),
            (
                found(Some(1380), None),
                true,
                "packets of 1480 bytes do not get through the tunnel, those of 1380 do, and nobody says so: an MTU black hole (B24)",
            ),
            (
                found(Some(1380), router),
                false,
                "10.0.1.1 says by ICMP that its next link takes 1400 (B24)",
            ),
            (
                found(Some(1380), Some((None, 1400))),
                false,
                "this host knows that the path takes 1400 (B24)",
            ),
        ] {
            assert_eq!(found.is_black_hole(), is_black_hole);
            let text = found.cause().map(|cause| cause.to_string());
            assert!(text.unwrap_or_default().contains(words), "{found:?}");
        }
    }
}
