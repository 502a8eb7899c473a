//! The thread `tunlb-api`: its listeners, its clients, and a reading of the counters each second. Nothing that
//! happens here is waited for by a worker or by control.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use log::{info, warn};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::answer::{Api, Peer};
use super::connections::Connections;
use super::losses::Losses;
use super::rates::{self, AllRates};
use super::route::Door;
use super::shares::Shares;
use super::socket::{ApiListener, SocketError};
use super::status::Measurements;
use crate::config::{ApiSocket, DirectorConfig};
use crate::control::Handle;

/// Connections at once by the unix socket.
const MOST_ON_SOCKET: usize = 256;

/// Connections at once by TCP.
const MOST_ON_TCP: usize = 64;

/// After an error of a listener, above all when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// The answer to a client that finds all places taken.
const NO_PLACE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// The API of a running director; [`stop`](Self::stop) ends it.
#[derive(Debug)]
pub struct ApiServer {
    /// Its file goes when this is dropped.
    socket: Option<ApiListener>,
    metrics: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ApiServer {
    /// Starts what a configuration asks for; `None`: nothing. A default socket that cannot be is worth a warning.
    ///
    /// # Errors
    /// A socket or address that was asked for and cannot be had.
    pub fn start(handle: Handle, config: &DirectorConfig) -> Result<Option<Self>> {
        let socket = open_socket(config)?;
        let tcp = config.metrics.0.map(listen).transpose()?;
        if socket.is_none() && tcp.is_none() {
            return Ok(None);
        }
        let metrics = tcp.as_ref().map(StdTcpListener::local_addr).transpose()?;
        let unix = socket.as_ref().map(ApiListener::listener).transpose()?;
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("cannot set up the API's event loop")?;
        let (stop, stopped) = oneshot::channel();
        let body = move || run(&runtime, handle, Listeners { unix, tcp }, stopped);
        let thread = thread::Builder::new()
            .name("tunlb-api".into())
            .spawn(body)
            .context("cannot start the API's thread")?;
        let server = Self {
            socket,
            metrics,
            stop,
            thread,
        };
        server.say_where();
        Ok(Some(server))
    }

    fn say_where(&self) {
        if let Some(path) = self.path() {
            info!("API at {}", path.display());
        }
        if let Some(address) = self.metrics {
            info!("metrics at http://{address}/metrics");
        }
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.socket.as_ref().map(ApiListener::path)
    }

    /// Where metrics are served by TCP.
    #[must_use]
    pub const fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Ends all connections, and the thread; the socket's file is gone after it.
    pub fn stop(self) {
        drop(self.socket);
        self.stop.send(()).ok(); // it may have ended
        if self.thread.join().is_err() {
            warn!("the API's thread panicked");
        }
    }
}

fn open_socket(config: &DirectorConfig) -> Result<Option<ApiListener>> {
    match ApiListener::open(&config.api, config.api_group.as_ref()) {
        Ok(socket) => Ok(socket),
        Err(error @ SocketError::NoGroup(_)) => Err(error).context("director.api_group"),
        Err(error) if config.api == ApiSocket::Default => {
            warn!("no API: {error}; director.api = PATH gives it another place");
            Ok(None)
        }
        Err(error) => Err(error).context("director.api"),
    }
}

fn listen(address: SocketAddr) -> Result<StdTcpListener> {
    let listener = StdTcpListener::bind(address)
        .with_context(|| format!("director.metrics: cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct Listeners {
    unix: Option<StdUnixListener>,
    tcp: Option<StdTcpListener>,
}

fn run(runtime: &Runtime, handle: Handle, listeners: Listeners, stopped: oneshot::Receiver<()>) {
    let tasks = LocalSet::new();
    tasks.block_on(runtime, async {
        let measured = measurements(&handle.identity.tun);
        let api = Rc::new(Api::new(handle, measured));
        spawn_local(measure(Rc::clone(&api)));
        if let Err(error) = serve(&api, listeners) {
            warn!("no API: {error}");
        }
        stopped.await.ok(); // either way it is to end
    });
}

fn serve(api: &Rc<Api>, listeners: Listeners) -> io::Result<()> {
    if let Some(unix) = listeners.unix {
        spawn_local(accept_local(UnixListener::from_std(unix)?, Rc::clone(api)));
    }
    if let Some(tcp) = listeners.tcp {
        spawn_local(accept_tcp(TcpListener::from_std(tcp)?, Rc::clone(api)));
    }
    Ok(())
}

async fn accept_local(listener: UnixListener, api: Rc<Api>) {
    let connections = Rc::new(Connections::new(Door::Socket, MOST_ON_SOCKET));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let peer = peer(&stream);
                // A client without a place gets an answer before its connection is closed, if its buffer takes it.
                if connections.make_room().is_err() {
                    stream.try_write(NO_PLACE).ok();
                } else {
                    connections.serve(&api, stream, peer);
                }
            }
            Err(error) => pause("director.api", &error).await,
        }
    }
}

async fn accept_tcp(listener: TcpListener, api: Rc<Api>) {
    let connections = Rc::new(Connections::new(Door::Metrics, MOST_ON_TCP));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if connections.make_room().is_err() {
                    stream.try_write(NO_PLACE).ok();
                } else {
                    connections.serve(&api, stream, None);
                }
            }
            Err(error) => pause("director.metrics", &error).await,
        }
    }
}

async fn pause(what: &str, error: &io::Error) {
    warn!("{what}: cannot take a connection: {error}");
    sleep(PAUSE).await;
}

fn peer(stream: &UnixStream) -> Option<Peer> {
    let credentials = stream.peer_cred().ok()?;
    Some(Peer {
        uid: credentials.uid(),
        pid: credentials.pid().and_then(|pid| pid.try_into().ok()),
    })
}

fn measurements(tun: &str) -> Measurements {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Measurements {
        rates: AllRates::new(Instant::now()),
        shares: Shares::default(),
        losses: Losses::new(tun),
        host: host.trim().to_owned(),
    }
}

/// Reads the counters again and again.
async fn measure(api: Rc<Api>) {
    let mut ticks = interval(rates::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let view = api.handle.view();
        let mut measured = api.measured.borrow_mut();
        measured.rates.read(&view, Instant::now());
        measured.shares.count_ahead(&view);
        measured.losses.read(&view.paths.devices());
    }
}
