//! Chunked bodies (RFC 9112, section 7.1) as a stream of bytes. Extensions and trailers are read and dropped.

use std::io::{self, BufRead, Read};

use super::error::Garbled;

/// Bytes of the line that begins a chunk, or of a trailer.
const LONGEST_LINE: u64 = 4096;

/// Trailers that are read; a director sends none.
const MOST_TRAILERS: usize = 16;

/// A body without its chunks. It ends where the last chunk is; one that ends before is an error.
#[derive(Debug)]
pub(super) struct Chunked<R> {
    inner: R,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The line with the size of a chunk is next.
    Size,
    /// As many bytes of a chunk; not 0.
    Data(u64),
    /// The end of the line behind a chunk.
    Behind,
    /// The last chunk was there.
    Ended,
}

impl<R> Chunked<R> {
    /// What it is read from.
    pub(super) const fn source(&self) -> &R {
        &self.inner
    }
}

impl<R: BufRead> Chunked<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self {
            inner,
            state: State::Size,
        }
    }

    fn begin_chunk(&mut self) -> io::Result<State> {
        let line = self.line()?;
        if !line.first().is_some_and(u8::is_ascii_hexdigit) {
            return Err(Garbled::Chunk.into()); // to httparse it is 0
        }
        match httparse::parse_chunk_size(&line) {
            Ok(httparse::Status::Complete((_, 0))) => self.trailers(),
            Ok(httparse::Status::Complete((_, size))) => Ok(State::Data(size)),
            Ok(httparse::Status::Partial) | Err(_) => Err(Garbled::Chunk.into()),
        }
    }

    fn trailers(&mut self) -> io::Result<State> {
        for _ in 0..=MOST_TRAILERS {
            if self.line()? == b"\r\n" {
                return Ok(State::Ended);
            }
        }
        Err(Garbled::Chunk.into())
    }

    fn behind(&mut self) -> io::Result<State> {
        if self.line()? == b"\r\n" {
            Ok(State::Size)
        } else {
            Err(Garbled::Chunk.into())
        }
    }

    /// A line with its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut bounded = self.inner.by_ref().take(LONGEST_LINE);
        bounded.read_until(b'\n', &mut line)?;
        let is_full = bounded.limit() == 0;
        match line.last() {
            Some(b'\n') => Ok(line),
            _ if is_full => Err(Garbled::Chunk.into()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn data(&mut self, left: u64, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.by_ref().take(left).read(into)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = left.saturating_sub(u64::try_from(read).unwrap_or(left));
        self.state = if left == 0 {
            State::Behind
        } else {
            State::Data(left)
        };
        Ok(read)
    }
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            self.state = match self.state {
                State::Size => self.begin_chunk()?,
                State::Data(left) => return self.data(left, into),
                State::Behind => self.behind()?,
                State::Ended => return Ok(0),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> Result<Vec<u8>, io::ErrorKind> {
        let mut body = Vec::new();
        let read = Chunked::new(text).read_to_end(&mut body);
        read.map(|_| body).map_err(|error| error.kind())
    }

    #[test]
    fn chunks() {
        for (text, body) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello"),
            (
                "1;name=\"value\"\r\na\r\n00a\r\n0123456789\r\n0\r\n\r\n",
                "a0123456789",
            ),
            ("A \r\n0123456789\r\n0\r\nDigest: x\r\n\r\n", "0123456789"),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap(), body.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn what_follows_the_body_is_left() {
        let mut rest: &[u8] = b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200";
        let mut body = String::new();
        Chunked::new(&mut rest).read_to_string(&mut body).unwrap();
        assert_eq!((body.as_str(), rest), ("a", &b"HTTP/1.1 200"[..]));
    }

    #[test]
    fn what_is_no_chunk() {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        for (text, kind) in [
            ("", UnexpectedEof),
            ("5", UnexpectedEof),
            ("5\r\nhell", UnexpectedEof),
            ("5\r\nhello", UnexpectedEof),
            ("5\r\nhello\r\n", UnexpectedEof),
            ("5\r\nhello\r\n0\r\n", UnexpectedEof),
            ("5\r\nhello!\r\n0\r\n\r\n", InvalidData),
            ("x\r\n", InvalidData),
            ("-1\r\na\r\n", InvalidData),
            ("\r\n", InvalidData),
            ("5\nhello\n0\n\n", InvalidData),
            ("10000000000000000\r\n", InvalidData),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap_err(), kind, "{text:?}");
        }
        assert_eq!(read(&[b'1'; 5000]).unwrap_err(), InvalidData);
        let trailers = format!("0\r\n{}", "A: b\r\n".repeat(50));
        assert_eq!(read(trailers.as_bytes()).unwrap_err(), InvalidData);
    }

    /// Hands out what it holds in pieces of so many bytes.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let most = into.len().min(self.1);
            self.0.read(&mut into[..most])
        }
    }

    fn encoded(chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut text = Vec::new();
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            text.extend(format!("{:x};n={}\r\n", chunk.len(), chunk.len()).bytes());
            text.extend(chunk);
            text.extend(b"\r\n");
        }
        text.extend(b"0\r\n\r\n");
        text
    }

    proptest! {
        #[test]
        fn any_body_in_any_pieces(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            piece in 1..40_usize,
            window in 1..70_usize,
        ) {
            let text = encoded(&chunks);
            let mut chunked = Chunked::new(BufReader::with_capacity(7, Pieces(&text, piece)));
            let mut body: Vec<u8> = Vec::new();
            let mut into = vec![0; window];
            loop {
                let read = chunked.read(&mut into).unwrap();
                if read == 0 { break }
                body.extend(&into[..read]);
            }
            prop_assert_eq!(body, chunks.concat());
        }

        #[test]
        fn a_body_that_is_cut_is_an_error(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let text = encoded(&chunks);
            let cut = cut.index(text.len());
            prop_assert_eq!(read(&text[..cut]).unwrap_err(), io::ErrorKind::UnexpectedEof);
        }

        #[test]
        fn garbage_ends(text: Vec<u8>) {
            if let Ok(body) = read(&text) {
                prop_assert!(body.len() < text.len());
            }
        }
    }
}
