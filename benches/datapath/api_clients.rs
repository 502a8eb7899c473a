//! A thousand clients of the director's API that an operator would not want: idle, slow, talking nonsense, sending
//! bodies of 10 MB. They run as a process of their own on the generator's core, and come again when they are sent off.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

const CLIENTS: usize = 1000;
/// How often each client does something.
const PACE: Duration = Duration::from_millis(100);
const BODY_BYTES: usize = 10_000_000;

/// What a client does.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Connects and says nothing.
    Idle,
    /// Sends the head of a request byte by byte.
    Slow,
    /// Sends what is no HTTP.
    Nonsense,
    /// Sends a body of 10 MB as fast as it is taken.
    Large,
}

impl Manner {
    const fn of(client: usize) -> Self {
        match client % 100 {
            0 => Self::Large,
            1..=9 => Self::Nonsense,
            10..=49 => Self::Slow,
            _ => Self::Idle,
        }
    }

    /// What it says from the `sent`th byte on, at one go.
    fn words(self, sent: usize) -> Vec<u8> {
        const HEAD: &[u8] = b"GET /v1/status HTTP/1.1\r\nHost: tunlb\r\nX-Padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        match self {
            Self::Idle => Vec::new(),
            Self::Slow => vec![HEAD.get(sent).copied().unwrap_or(b'a')],
            Self::Nonsense => vec![0xff; 4096],
            Self::Large if sent == 0 => format!(
                "POST /v1/reload HTTP/1.1\r\nHost: tunlb\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
            )
            .into_bytes(),
            Self::Large => vec![b' '; 65_536],
        }
    }
}

#[derive(Debug)]
struct Client {
    manner: Manner,
    stream: Option<UnixStream>,
    sent: usize,
}

/// Goes on until it is ended by a signal.
///
/// # Errors
/// Nobody listens at the path.
pub(crate) fn run(path: &str) -> Result<()> {
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|client| Client {
            manner: Manner::of(client),
            stream: None,
            sent: 0,
        })
        .collect();
    let mut announced = false;
    loop {
        for client in &mut clients {
            client.act(path);
        }
        let connected = clients
            .iter()
            .filter(|client| client.stream.is_some())
            .count();
        ensure!(connected > 0, "no client can connect to {path}");
        if !announced {
            eprintln!("clients: {connected} connected");
            announced = true;
        }
        thread::sleep(PACE);
    }
}

impl Client {
    fn act(&mut self, path: &str) {
        if self.stream.is_none() {
            self.sent = 0;
            self.stream = UnixStream::connect(path).ok();
        }
        if self.speak().is_none() {
            self.stream = None;
        }
    }

    /// `None` where it has to connect again.
    fn speak(&mut self) -> Option<()> {
        let stream = self.stream.as_mut()?;
        stream.set_nonblocking(true).ok()?;
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return None,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return None,
            _ => {}
        }
        match stream.write(&self.manner.words(self.sent)) {
            Ok(bytes) => self.sent += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
        Some(())
    }
}
