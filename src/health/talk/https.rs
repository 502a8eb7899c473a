//! A GET request over TLS. The handshake is rustls's; what it found of the certificate becomes a result. Read first: RFC
//! 8446, RFC 5246.
//!
//! A hostile server costs a bounded amount: rustls takes no handshake message above 64 KiB and no chain that takes too
//! many signatures, and more bytes than an answer of the kind "http" may have end the probe.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConnection, Error};

use super::http::HttpTalk;
use crate::health::trust::{Seen, Trust};
use crate::probe::ProbeResult;
use crate::probe::check::Https;

/// Bytes that a server may send: certificates, an answer as far as it is looked at, and the records around them.
const LONGEST_ANSWER: usize = 256 * 1024;

/// Bytes that are sent: a handshake, a request, and answers to what a server asks for.
const LONGEST_REQUEST: usize = 16 * 1024;

pub(in super::super) struct HttpsTalk {
    connection: ClientConnection,
    http: HttpTalk,
    seen: Arc<Seen>,
    /// All that is sent, so far.
    sent: Vec<u8>,
    received: usize,
}

impl std::fmt::Debug for HttpsTalk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpsTalk")
            .field("http", &self.http)
            .finish_non_exhaustive()
    }
}

impl HttpsTalk {
    pub(in super::super) fn new(
        check: &Https,
        destination: SocketAddr,
        trust: &Trust,
    ) -> Result<Self, Error> {
        let name = match &check.http.host {
            Some(host) => ServerName::try_from(host.clone())
                .map_err(|_| Error::General(format!("{host} is no server name")))?,
            None => ServerName::IpAddress(destination.ip().into()),
        };
        let (config, seen) = trust.config()?;
        let mut connection = ClientConnection::new(config, name)?;
        let http = HttpTalk::new(&check.http, destination, 443);
        // It is kept until the handshake is done.
        let written = connection.writer().write_all(http.request());
        written.map_err(|error| Error::General(error.to_string()))?;
        let mut talk = Self {
            connection,
            http,
            seen,
            sent: Vec::new(),
            received: 0,
        };
        talk.collect();
        Ok(talk)
    }

    pub(super) fn request(&self) -> &[u8] {
        &self.sent
    }

    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Option<ProbeResult> {
        self.received += bytes.len();
        while !bytes.is_empty() {
            if self.connection.read_tls(&mut bytes).is_err() {
                return Some(ProbeResult::BadAnswer);
            }
            if let Err(error) = self.connection.process_new_packets() {
                return Some(meaning(&error));
            }
            if let Some(result) = self.read_plain() {
                return Some(result);
            }
        }
        self.collect();
        let is_too_much = self.received > LONGEST_ANSWER || self.sent.len() > LONGEST_REQUEST;
        is_too_much.then(|| self.http.so_far().unwrap_or(ProbeResult::BadAnswer))
    }

    pub(super) fn closed(&self) -> ProbeResult {
        if self.connection.is_handshaking() {
            return ProbeResult::ClosedEarly;
        }
        self.http.closed()
    }

    pub(super) fn so_far(&self) -> Option<ProbeResult> {
        self.http.so_far()
    }

    /// When the certificate that the server showed expires, in seconds after the Unix epoch.
    pub(super) fn certificate_expires(&self) -> Option<u64> {
        let expires = self.seen.load(Ordering::Relaxed);
        (expires > 0).then_some(expires)
    }

    fn read_plain(&mut self) -> Option<ProbeResult> {
        let mut buffer = [0; 4096];
        loop {
            match self.connection.reader().read(&mut buffer) {
                Ok(0) => return Some(self.http.closed()), // the server said that it ends
                Ok(length) => {
                    if let Some(result) = self.http.read(&buffer[..length]) {
                        return Some(result);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => return Some(self.http.closed()),
            }
        }
    }

    /// Takes over what is to be sent.
    fn collect(&mut self) {
        while self.connection.wants_write() && self.sent.len() <= LONGEST_REQUEST {
            // A vector takes everything.
            if self.connection.write_tls(&mut self.sent).is_err() {
                return;
            }
        }
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "rustls adds errors, and each of them fails the probe"
)]
fn meaning(error: &Error) -> ProbeResult {
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                ProbeResult::CertificateName
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => ProbeResult::CertificateExpired,
            _ => ProbeResult::CertificateUntrusted,
        },
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => ProbeResult::BadAnswer,
        _ => ProbeResult::TlsFailed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probe::check::{Http, Verify};

    fn talk() -> HttpsTalk {
        let http = Http {
            path: "/".into(),
            host: Some("www.example.net".into()),
            status: 200..=299,
            body: None,
        };
        let verify = Verify::None;
        let trust = Trust::load(&verify).unwrap();
        let check = Https { http, verify };
        HttpsTalk::new(&check, ([10, 0, 0, 100], 443).into(), &trust).unwrap()
    }

    #[test]
    fn it_begins_with_a_client_hello_that_names_the_server() {
        let talk = talk();
        let hello = talk.request();
        assert_eq!(hello[..2], [22, 3], "a handshake record");
        let name = b"www.example.net";
        assert!(hello.windows(name.len()).any(|part| part == name));
        assert_eq!(talk.closed(), ProbeResult::ClosedEarly);
        assert_eq!(talk.certificate_expires(), None);
    }

    #[test]
    fn what_is_no_tls_is_told() {
        for (what, answer, expected) in [
            (
                "HTTP",
                &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
                ProbeResult::BadAnswer,
            ),
            ("an alert", &[21, 3, 3, 0, 2, 2, 40], ProbeResult::TlsFailed),
            (
                "a hello that ends early",
                &[22, 3, 3, 0, 4, 2, 0, 0, 0],
                ProbeResult::BadAnswer,
            ),
        ] {
            assert_eq!(talk().read(answer), Some(expected), "{what}");
        }
    }

    #[test]
    fn what_never_ends_is_bounded() {
        let mut talk = talk();
        // Handshake records of a certificate message that would be 16 MB.
        let mut record = vec![22, 3, 3, 0x40, 0];
        record.extend([11, 0xff, 0xff, 0xff]);
        record.resize(5 + 0x4000, 0);
        let result = (0..100).find_map(|_| talk.read(&record));
        assert!(
            result.is_some_and(|result| result != ProbeResult::Ok),
            "{result:?}"
        );
    }

    proptest! {
        #[test]
        fn anything_may_come(pieces: Vec<Vec<u8>>) {
            let mut talk = talk();
            for piece in pieces {
                if let Some(result) = talk.read(&piece) {
                    prop_assert_ne!(result, ProbeResult::Ok);
                    break;
                }
            }
        }
    }
}
