//! A GET request and its answer. Read first: RFC 9112.

use std::net::SocketAddr;

use crate::probe::ProbeResult;
use crate::probe::check::Http;

/// Bytes of the headers of an answer, and how many of them.
const LONGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;

/// Bytes of a body that are looked at.
const LONGEST_BODY: usize = 64 * 1024;

/// Interim answers (status 1xx) before the final one.
const MOST_INTERIM: u8 = 8;

#[derive(Debug)]
pub(in super::super) struct HttpTalk {
    request: Vec<u8>,
    check: Http,
    /// What came and is not worked off: of the head, or of the body.
    received: Vec<u8>,
    interim: u8,
    body: Option<Body>,
    /// Once the head and as much of the body as matters are known.
    decided: Option<ProbeResult>,
}

/// How much of a body is still to come.
#[derive(Debug)]
enum Body {
    /// So many bytes.
    Counted(usize),
    /// In chunks, of which the decoded ones are kept.
    Chunked(Vec<u8>),
    /// Until the connection ends.
    ToTheEnd,
}

impl HttpTalk {
    /// `usual` is the port that the Host header does without.
    pub(super) fn new(check: &Http, destination: SocketAddr, usual: u16) -> Self {
        let host = match &check.host {
            Some(host) => host.clone(),
            None if destination.port() == usual && destination.is_ipv4() => {
                destination.ip().to_string()
            }
            None if destination.port() == usual => format!("[{}]", destination.ip()),
            None => destination.to_string(),
        };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tunlb-health/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            check.path,
            env!("CARGO_PKG_VERSION"),
        );
        Self {
            request: request.into_bytes(),
            check: check.clone(),
            received: Vec::new(),
            interim: 0,
            body: None,
            decided: None,
        }
    }

    pub(super) fn request(&self) -> &[u8] {
        &self.request
    }

    /// A result that is known already is not told before the service ends the connection, or sent all: it then ends
    /// first, and no port of this host waits.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<ProbeResult> {
        self.received.extend_from_slice(bytes);
        while self.body.is_none() {
            match self.head() {
                Head::Whole => {}
                Head::Partial if self.received.len() > LONGEST_HEAD => {
                    return Some(ProbeResult::BadAnswer);
                }
                Head::Partial => return None,
                Head::Bad => return Some(ProbeResult::BadAnswer),
            }
        }
        self.go_through_body()
    }

    pub(super) fn closed(&self) -> ProbeResult {
        let is_whole = matches!(self.body, Some(Body::ToTheEnd));
        match self.decided {
            Some(result) => result,
            None if is_whole => ProbeResult::BadBody,
            None => ProbeResult::ClosedEarly,
        }
    }

    /// What is known though the service has not ended the connection.
    pub(super) fn so_far(&self) -> Option<ProbeResult> {
        self.decided
    }

    fn head(&mut self) -> Head {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(&self.received) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Head::Partial,
            Err(_) => return Head::Bad,
        };
        let Some(status) = response.code else {
            return Head::Bad;
        };
        if (100..200).contains(&status) {
            self.received.drain(..length);
            self.interim += 1;
            return if self.interim > MOST_INTERIM {
                Head::Bad
            } else {
                Head::Whole
            };
        }
        let body = body_of(status, response.headers);
        if !self.check.status.contains(&status) {
            self.decided = Some(ProbeResult::BadStatus);
        } else if self.check.body.is_none() {
            self.decided = Some(ProbeResult::Ok);
        }
        self.body = Some(body);
        self.received.drain(..length);
        Head::Whole
    }

    fn go_through_body(&mut self) -> Option<ProbeResult> {
        let (is_whole, text) = match self.body.as_mut()? {
            Body::Counted(bytes) => (self.received.len() >= *bytes, &self.received),
            Body::Chunked(decoded) => match decode(&mut self.received, decoded) {
                Ok(is_last) => (is_last, &*decoded),
                Err(httparse::InvalidChunkSize) => return Some(ProbeResult::BadAnswer),
            },
            Body::ToTheEnd => (false, &self.received),
        };
        let is_found = |wanted: &String| {
            let wanted = wanted.as_bytes();
            text.windows(wanted.len()).any(|window| window == wanted)
        };
        if self.decided.is_none() && self.check.body.as_ref().is_some_and(is_found) {
            self.decided = Some(ProbeResult::Ok);
        }
        if is_whole || text.len().max(self.received.len()) > LONGEST_BODY {
            return Some(self.decided.unwrap_or(ProbeResult::BadBody));
        }
        None
    }
}

/// What is known of a head.
enum Head {
    /// It was read, and may have been an interim one.
    Whole,
    /// More has to come.
    Partial,
    /// It is none.
    Bad,
}

fn body_of(status: u16, headers: &[httparse::Header<'_>]) -> Body {
    let header = |name: &str| {
        let found = headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    if matches!(status, 204 | 304) {
        return Body::Counted(0);
    }
    let coding = header("transfer-encoding").map(str::to_ascii_lowercase);
    if coding.is_some_and(|coding| coding.trim_end().ends_with("chunked")) {
        return Body::Chunked(Vec::new());
    }
    let length = header("content-length").and_then(|length| length.trim().parse().ok());
    length.map_or(Body::ToTheEnd, Body::Counted)
}

/// Decodes whole chunks; whether the last one was among them.
fn decode(
    received: &mut Vec<u8>,
    decoded: &mut Vec<u8>,
) -> Result<bool, httparse::InvalidChunkSize> {
    loop {
        let httparse::Status::Complete((head, size)) = httparse::parse_chunk_size(received)? else {
            return Ok(false);
        };
        if size == 0 {
            return Ok(true);
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let end = head.saturating_add(size);
        if received.len() < end.saturating_add(2) {
            return Ok(false);
        }
        decoded.extend_from_slice(&received[head..end]);
        received.drain(..end + 2);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn talk(body: Option<&str>) -> HttpTalk {
        let check = Http {
            path: "/health".into(),
            host: None,
            status: 200..=299,
            body: body.map(str::to_owned),
        };
        HttpTalk::new(&check, ([10, 0, 0, 100], 8080).into(), 80)
    }

    #[test]
    fn the_request() {
        let text = String::from_utf8(talk(None).request().to_vec()).unwrap();
        assert!(
            text.starts_with("GET /health HTTP/1.1\r\nHost: 10.0.0.100:8080\r\n"),
            "{text}"
        );
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"), "{text}");
    }

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// What is found of an answer that comes in one piece, then ends.
    fn found(body: Option<&str>, answer: &str) -> ProbeResult {
        let whole = talk(body).read(answer.as_bytes());
        let mut talk = talk(body);
        let mut bytes = answer.bytes();
        let slowly = bytes.find_map(|byte| talk.read(&[byte]));
        let slowly = slowly.unwrap_or_else(|| talk.closed());
        assert_eq!(whole.unwrap_or(slowly), slowly, "{answer:?}");
        slowly
    }

    #[test]
    fn answers() {
        use ProbeResult::{BadAnswer, BadBody, BadStatus, ClosedEarly, Ok};
        for (body, answer, expected) in [
            (None, format!("{HEAD}hello"), Ok),
            (None, HEAD.to_owned(), Ok), // the status is known
            (Some("ell"), format!("{HEAD}hello"), Ok),
            (Some("ell"), format!("{HEAD}hel"), ClosedEarly),
            (Some("elp"), format!("{HEAD}hello"), BadBody),
            (
                Some("elp"),
                "HTTP/1.0 200 OK\r\n\r\nhello".to_owned(),
                BadBody,
            ),
            (Some("ell"), "HTTP/1.0 200 OK\r\n\r\nhello".to_owned(), Ok),
            (
                Some("hello"),
                format!("{CHUNKED}3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
                Ok,
            ),
            (
                Some("help"),
                format!("{CHUNKED}3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
                BadBody,
            ),
            (Some("hello"), format!("{CHUNKED}x\r\n"), BadAnswer),
            (
                None,
                "HTTP/1.1 500 Oh no\r\nContent-Length: 0\r\n\r\n".to_owned(),
                BadStatus,
            ),
            (
                None,
                "HTTP/1.1 301 Moved\r\nLocation: /health\r\nContent-Length: 0\r\n\r\n".to_owned(),
                BadStatus,
            ),
            (
                None,
                format!("HTTP/1.1 100 Continue\r\n\r\n{HEAD}hello"),
                Ok,
            ),
            (None, "HTTP/1.1 100 Continue\r\n\r\n".repeat(9), BadAnswer),
            (None, "HTTP/1.1 204 None\r\n\r\n".to_owned(), Ok),
            (None, "SSH-2.0-OpenSSH_9.2\r\n".to_owned(), BadAnswer),
            (None, "HTTP/1.1 200".to_owned(), ClosedEarly),
            (None, String::new(), ClosedEarly),
        ] {
            assert_eq!(found(body, &answer), expected, "{body:?} {answer:?}");
        }
    }

    #[test]
    fn what_never_ends_is_bounded() {
        let mut talk = talk(Some("no such text"));
        let mut kept = 0;
        let mut result = talk.read(b"HTTP/1.1 200 OK\r\n\r\n");
        for _ in 0..100_000 {
            if result.is_some() {
                break;
            }
            result = talk.read(&[b'x'; 1024]);
            kept = kept.max(talk.received.len());
        }
        assert_eq!(result, Some(ProbeResult::BadBody));
        assert!(kept <= LONGEST_BODY + 1024);
        let mut head = self::talk(None);
        let endless = std::iter::repeat_with(|| head.read(&[b'x'; 1024]))
            .take(100)
            .flatten()
            .next();
        assert_eq!(endless, Some(ProbeResult::BadAnswer));
    }

    proptest! {
        #[test]
        fn anything_may_come(pieces: Vec<Vec<u8>>) {
            let mut talk = talk(Some("x"));
            for piece in pieces {
                if talk.read(&piece).is_some() {
                    break;
                }
            }
            talk.closed();
        }

        #[test]
        fn any_body_may_come(body: Vec<u8>) {
            let mut talk = talk(Some("x"));
            let mut answer = CHUNKED.as_bytes().to_vec();
            answer.extend(body);
            talk.read(&answer);
            talk.closed();
        }
    }
}
