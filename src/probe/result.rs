//! The outcome of one probe.

use std::fmt;

/// What a probe found. The names are the same in status, events, metrics and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeResult {
    /// The answer that was asked for.
    Ok,
    /// None in time.
    NoAnswer,
    /// A reset, or an ICMP error, in answer to the first packet.
    Refused,
    /// A reset later on.
    Reset,
    /// The connection ended before the answer was whole.
    ClosedEarly,
    /// An HTTP status that is not the wanted one.
    BadStatus,
    /// An HTTP body without the wanted text.
    BadBody,
    /// A TLS alert.
    TlsFailed,
    /// A certificate that is not for the wanted name.
    CertificateName,
    /// A certificate that is not valid now.
    CertificateExpired,
    /// A certificate that no trusted authority signed, or that is none.
    CertificateUntrusted,
    /// An answer that the protocol does not allow, or not the wanted one.
    BadAnswer,
    /// No answer, and the backend says that it decapsulates no such tunnel (ICMP 3/2).
    NoDecapsulator,
    /// No answer, and the backend says that nothing listens on the tunnel's port (ICMP 3/3).
    TunnelPort,
    /// No answer, and a machine on the way says that it is forbidden (ICMP 3/9, 3/10, 3/13).
    Prohibited,
    /// No answer, and no way leads there, as a router or this host's own table says.
    Unreachable,
    /// Nothing was proved: silence, where silence is all there can be.
    NoVerdict,
    /// This host has no address that the answer could come to.
    NoSource,
    /// All ports for probes of this VIP are in use.
    NoPort,
    /// This process cannot open another socket.
    NoFd,
    /// The packet never reached the probe device, or the kernel did not take it: a rule of this host's own.
    NotSent,
    /// The probing thread was too late to see an answer in time.
    Late,
}

/// What a result says of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It answers.
    Passed,
    /// It does not.
    Failed,
}

impl ProbeResult {
    /// Every result.
    pub const ALL: [Self; 22] = [
        Self::Ok,
        Self::NoAnswer,
        Self::Refused,
        Self::Reset,
        Self::ClosedEarly,
        Self::BadStatus,
        Self::BadBody,
        Self::TlsFailed,
        Self::CertificateName,
        Self::CertificateExpired,
        Self::CertificateUntrusted,
        Self::BadAnswer,
        Self::NoDecapsulator,
        Self::TunnelPort,
        Self::Prohibited,
        Self::Unreachable,
        Self::NoVerdict,
        Self::NoSource,
        Self::NoPort,
        Self::NoFd,
        Self::NotSent,
        Self::Late,
    ];

    /// The word in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoAnswer => "no_answer",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::ClosedEarly => "closed_early",
            Self::BadStatus => "bad_status",
            Self::BadBody => "bad_body",
            Self::TlsFailed => "tls_failed",
            Self::CertificateName => "certificate_name",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::BadAnswer => "bad_answer",
            Self::NoDecapsulator => "no_decapsulator",
            Self::TunnelPort => "tunnel_port",
            Self::Prohibited => "prohibited",
            Self::Unreachable => "unreachable",
            Self::NoVerdict => "no_verdict",
            Self::NoSource => "no_source",
            Self::NoPort => "no_port",
            Self::NoFd => "no_fd",
            Self::NotSent => "not_sent",
            Self::Late => "late",
        }
    }

    /// What it says of the backend; `None`: nothing, above all because the fault is this host's.
    #[must_use]
    pub const fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Ok => Some(Verdict::Passed),
            Self::NoAnswer
            | Self::Refused
            | Self::Reset
            | Self::ClosedEarly
            | Self::BadStatus
            | Self::BadBody
            | Self::TlsFailed
            | Self::CertificateName
            | Self::CertificateExpired
            | Self::CertificateUntrusted
            | Self::BadAnswer
            | Self::NoDecapsulator
            | Self::TunnelPort
            | Self::Prohibited
            | Self::Unreachable => Some(Verdict::Failed),
            Self::NoVerdict
            | Self::NoSource
            | Self::NoPort
            | Self::NoFd
            | Self::NotSent
            | Self::Late => None,
        }
    }

    /// Whether it is a fault of this host, and none of the backend's.
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(
            self,
            Self::NoSource | Self::NoPort | Self::NoFd | Self::NotSent | Self::Late
        )
    }

    /// Whether a failure proves that flows get no answer either. One that does not may be a service that is
    /// only slow, or a health page of its own mind.
    #[must_use]
    pub const fn is_proof(self) -> bool {
        matches!(
            self,
            Self::Refused | Self::Unreachable | Self::NoDecapsulator | Self::TunnelPort
        )
    }
}

impl fmt::Display for ProbeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_is_listed_once_and_is_one_kind() {
        let mut names: Vec<_> = ProbeResult::ALL
            .iter()
            .map(|result| result.name())
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ProbeResult::ALL.len());
        for (position, result) in ProbeResult::ALL.into_iter().enumerate() {
            assert_eq!(
                result as usize, position,
                "{result}: arrays are indexed by it"
            );
            assert!(!result.is_local() || result.verdict().is_none(), "{result}");
            assert!(
                !result.is_proof() || result.verdict() == Some(Verdict::Failed),
                "{result}"
            );
        }
    }
}
