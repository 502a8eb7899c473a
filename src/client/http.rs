//! One exchange of HTTP/1.1 over a stream: what is asked, and an answer of which every length is bounded.

use std::io::{self, BufRead, Read, Write};

use super::chunked::Chunked;
use super::error::Garbled;

/// Bytes of the head of an answer.
const LONGEST_HEAD: usize = 64 << 10;

/// Fields in the head of an answer.
const MOST_FIELDS: usize = 64;

/// Interim answers (1xx) before the final one.
const MOST_INTERIM: usize = 8;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: &'a str,
    /// JSON.
    pub(super) body: Option<&'a [u8]>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

impl Method {
    const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl Request<'_> {
    /// Writes it whole; the answer closes the connection.
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: tunlb\r\nUser-Agent: tunlb/{}\r\nAccept: application/json, */*\r\nConnection: close\r\n",
            self.method.name(),
            self.target,
            env!("CARGO_PKG_VERSION"),
        );
        if let Some(body) = self.body {
            let kind = match self.method {
                Method::Patch => "application/merge-patch+json",
                Method::Get | Method::Post | Method::Delete => "application/json",
            };
            let length = body.len();
            head += &format!("Content-Type: {kind}\r\nContent-Length: {length}\r\n");
        }
        head += "\r\n";
        let mut message = head.into_bytes();
        message.extend(self.body.unwrap_or_default());
        to.write_all(&message)
    }
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    status: u16,
    framing: Framing,
}

/// How the body ends (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// An answer of which the head is read.
#[derive(Debug)]
pub(super) struct Answer<R> {
    pub(super) status: u16,
    pub(super) body: Body<R>,
}

/// The bytes of a body; one that ends too soon is an error.
#[derive(Debug)]
pub(super) enum Body<R> {
    Length { from: R, left: u64 },
    Chunked(Chunked<R>),
    Close(R),
}

impl<R: BufRead> Answer<R> {
    /// Reads the head of an answer; the rest is read as the body is.
    pub(super) fn read(mut from: R) -> io::Result<Self> {
        for _ in 0..=MOST_INTERIM {
            let head = parse(&head(&mut from)?)?;
            if (100..200).contains(&head.status) {
                continue;
            }
            let body = match head.framing {
                Framing::Length(left) => Body::Length { from, left },
                Framing::Chunked => Body::Chunked(Chunked::new(from)),
                Framing::Close => Body::Close(from),
            };
            return Ok(Self {
                status: head.status,
                body,
            });
        }
        Err(Garbled::Head.into())
    }
}

/// The bytes of a head, its empty line included.
fn head(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        let room = u64::try_from(LONGEST_HEAD - before).unwrap_or_default();
        from.by_ref().take(room).read_until(b'\n', &mut head)?;
        let line = &head[before..];
        if line == b"\r\n" || line == b"\n" {
            return Ok(head);
        }
        if head.len() >= LONGEST_HEAD {
            return Err(Garbled::LongHead.into());
        }
        if !line.ends_with(b"\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !head.starts_with(b"HTTP/1.") {
            return Err(Garbled::Head.into());
        }
    }
}

fn parse(text: &[u8]) -> io::Result<Head> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = response.parse(text);
    let (Ok(httparse::Status::Complete(_)), Some(status)) = (parsed, response.code) else {
        return Err(Garbled::Head.into());
    };
    let mut framing = Framing::Close;
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Garbled::Length.into());
            }
            framing = Framing::Chunked;
        } else if field.name.eq_ignore_ascii_case("content-length") {
            framing = with_length(framing, field.value)?;
        }
    }
    if matches!(status, 204 | 304) {
        framing = Framing::Length(0);
    }
    Ok(Head { status, framing })
}

/// A length counts for nothing where the body is chunked; two must be the same.
fn with_length(framing: Framing, value: &[u8]) -> io::Result<Framing> {
    let digits = std::str::from_utf8(value.trim_ascii()).ok();
    let digits = digits.filter(|text| text.bytes().all(|letter| letter.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok());
    let length: u64 = length.ok_or(Garbled::Length)?;
    match framing {
        Framing::Chunked => Ok(Framing::Chunked),
        Framing::Length(other) if other != length => Err(Garbled::Length.into()),
        Framing::Length(_) | Framing::Close => Ok(Framing::Length(length)),
    }
}

impl<R> Body<R> {
    /// What it is read from.
    pub(super) const fn source(&self) -> &R {
        match self {
            Self::Length { from, .. } | Self::Close(from) => from,
            Self::Chunked(chunked) => chunked.source(),
        }
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Close(from) => from.read(into),
            Self::Chunked(chunked) => chunked.read(into),
            Self::Length { left: 0, .. } => Ok(0),
            Self::Length { from, left } => {
                let read = from.by_ref().take(*left).read(into)?;
                if read == 0 && !into.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left = left.saturating_sub(u64::try_from(read).unwrap_or(*left));
                Ok(read)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(request: Request<'_>) -> String {
        let mut bytes = Vec::new();
        request.write(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn requests() {
        let version = env!("CARGO_PKG_VERSION");
        let request = Request {
            method: Method::Get,
            target: "/v1/status?vip=web",
            body: None,
        };
        assert_eq!(
            written(request),
            format!(
                "GET /v1/status?vip=web HTTP/1.1\r\nHost: tunlb\r\nUser-Agent: tunlb/{version}\r\n\
                 Accept: application/json, */*\r\nConnection: close\r\n\r\n"
            )
        );
        let request = Request {
            method: Method::Patch,
            target: "/",
            body: Some(b"{}"),
        };
        assert!(written(request).ends_with(
            "\r\nContent-Type: application/merge-patch+json\r\nContent-Length: 2\r\n\r\n{}"
        ));
    }

    /// Status and body.
    fn read(text: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let mut answer = Answer::read(text)?;
        let mut body = Vec::new();
        answer.body.read_to_end(&mut body)?;
        Ok((answer.status, body))
    }

    #[test]
    fn answers() {
        for (text, status, body) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}more",
                200,
                "{}",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Length: 2\r\n\r\n{}",
                200,
                "{}",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                200,
                "{}",
            ),
            ("HTTP/1.0 404 \r\n\r\nuntil the end", 404, "until the end"),
            ("HTTP/1.1 204 No Content\r\n\r\nnothing of it", 204, ""),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
                200,
                "a",
            ),
        ] {
            let (read_status, read_body) = read(text.as_bytes()).unwrap();
            assert_eq!(
                (read_status, read_body.as_slice()),
                (status, body.as_bytes()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_is_no_answer() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(LONGEST_HEAD));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(65));
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(9);
        for (text, what) in [
            ("SSH-2.0-OpenSSH_9.2\r\n", "its answer is not HTTP/1.1"),
            ("HTTP/1.1 abc\r\n\r\n", "its answer is not HTTP/1.1"),
            (
                "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
                "its answer is not HTTP/1.1",
            ),
            (&many, "its answer is not HTTP/1.1"),
            (&interim, "its answer is not HTTP/1.1"),
            (&long, "the head of its answer is too long"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                "its answer has a body of unknown length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                "its answer has a body of unknown length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
                "its answer has a body of unknown length",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "its answer has a body of unknown length",
            ),
        ] {
            assert_eq!(
                read(text.as_bytes()).unwrap_err().to_string(),
                what,
                "{text:?}"
            );
        }
        for text in [
            "",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{",
        ] {
            let kind = read(text.as_bytes()).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::UnexpectedEof, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_ends(tail: Vec<u8>) {
            let text = [b"HTTP/1.1 200 OK\r\n".as_slice(), &tail].concat();
            if let Ok((_, body)) = read(&text) {
                prop_assert!(body.len() <= tail.len());
            }
            prop_assert!(read(&tail).is_err());
        }
    }
}
