//! A connection whose other end has to read what it is sent: one that does not is given up, so that no answer is
//! kept in memory for it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long [`ENOUGH`] may take to be read.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// In bytes.
const ENOUGH: usize = 1 << 20;

/// A connection `S` that fails to be written to when its other end reads too slowly.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    deadline: Pin<Box<Sleep>>,
    /// Whether the deadline counts: something waits to be read.
    waits: bool,
    /// Bytes that were read since it does.
    taken: usize,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            deadline: Box::pin(sleep_until(Instant::now())),
            waits: false,
            taken: 0,
        }
    }

    fn begin(&mut self) {
        self.deadline.as_mut().reset(Instant::now() + self.patience);
        self.waits = true;
        self.taken = 0;
    }

    /// Some bytes were taken, or none could be written now.
    fn wrote(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.taken += bytes;
                if self.waits && self.taken >= ENOUGH {
                    self.begin();
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                if !self.waits {
                    self.begin();
                }
                ready!(self.deadline.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.wrote(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when all was written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waits = false;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::UnixStream;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    /// Writes until nothing more is taken, or `bytes` are.
    async fn write(stream: &mut Patient<UnixStream>, bytes: usize) -> io::Result<()> {
        let mut written = 0;
        while written < bytes {
            let piece = [0; 4096];
            written +=
                poll_fn(|context| Pin::new(&mut *stream).poll_write(context, &piece)).await?;
        }
        poll_fn(|context| Pin::new(&mut *stream).poll_flush(context)).await
    }

    fn run(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime
            .enable_io()
            .enable_time()
            .build()
            .unwrap()
            .block_on(test);
    }

    #[test]
    fn who_reads_nothing_is_given_up() {
        run(async {
            let (stream, _other) = UnixStream::pair().unwrap();
            let mut patient = Patient::new(stream, SHORT);
            let error = write(&mut patient, 64 << 20).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }

    /// Longer than the time for a part, but each part in time.
    #[test]
    fn who_reads_steadily_is_not() {
        run(async {
            let (stream, other) = UnixStream::pair().unwrap();
            let mut patient = Patient::new(stream, SHORT * 20);
            let other = other.into_std().unwrap();
            let reader = std::thread::spawn(move || {
                other.set_nonblocking(false).unwrap();
                io::copy(&mut io::Read::take(other, 64 << 20), &mut io::sink()).unwrap()
            });
            write(&mut patient, 64 << 20).await.unwrap();
            assert_eq!(reader.join().unwrap(), 64 << 20);
        });
    }
}
