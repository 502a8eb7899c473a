//! The events of a running director, one for each line, as they happen.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{ClientError, Garbled};
use super::http::Body;
use crate::api::model::Event;

/// Bytes of one event.
const LONGEST_LINE: u64 = 1 << 20;

/// What happens, as long as the director runs.
#[derive(Debug)]
pub struct Events {
    socket: PathBuf,
    from: BufReader<Body<BufReader<UnixStream>>>,
}

impl Events {
    /// Of an answer whose head is read; between two events there may be hours.
    pub(super) fn new(
        socket: PathBuf,
        body: Body<BufReader<UnixStream>>,
    ) -> Result<Self, ClientError> {
        let lasting = body.source().get_ref().set_read_timeout(None);
        lasting.map_err(|error| ClientError::talking(&socket, error, Duration::MAX))?;
        let from = BufReader::new(body);
        Ok(Self { socket, from })
    }

    /// Waits for the next event. `None`: the director has ended the stream.
    ///
    /// # Errors
    /// [`ClientError`]: the director was killed, or what it says is no event.
    pub fn wait(&mut self) -> Result<Option<Event>, ClientError> {
        let line = self.line();
        let line =
            line.map_err(|error| ClientError::talking(&self.socket, error, Duration::MAX))?;
        let Some(line) = line else {
            return Ok(None);
        };
        let event = serde_json::from_slice(&line);
        event.map(Some).map_err(|error| ClientError::Garbled {
            path: self.socket.clone(),
            what: Garbled::Document(error),
        })
    }

    /// A line with something in it.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut line = Vec::new();
            let mut bounded = self.from.by_ref().take(LONGEST_LINE);
            bounded.read_until(b'\n', &mut line)?;
            let is_full = bounded.limit() == 0;
            match line.last() {
                None => return Ok(None),
                Some(b'\n') if line.trim_ascii().is_empty() => {}
                Some(b'\n') => return Ok(Some(line)),
                Some(_) if is_full => return Err(Garbled::LongLine.into()),
                Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}
