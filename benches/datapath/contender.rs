//! The contenders: how each is started as the director, what CPU time it took, how it is stopped.
//!
//! To measure another design, add it to [`ALL`].

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{BACKEND, DIRECTOR_CORE, GENERATOR_CORE, Lab, Namespace, PORT, VIP};
use crate::options;
use crate::settings::{DEFAULT, Settings, api_socket};

/// The one to which the others are compared; always first.
const NAIVE: &str = "naive";

/// A way to move packets from the generator to the sink.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Naive,
    Kernel,
    /// The kernel's own balancer, as a tunnel with the scheduler that has a Maglev ring (ipvsadm(8)).
    Ipvs,
    Tunlb(Settings),
}

/// What is measured where nothing is named, and then those that need what few machines have.
const ALL: &[Contender] = &[
    contender(NAIVE, Kind::Naive),
    contender("kernel-forwarding", Kind::Kernel),
    contender("tunlb", Kind::Tunlb(DEFAULT)),
    contender("tunlb-raw", Kind::Tunlb(Settings::ipip("raw"))),
    contender("tunlb-packet", Kind::Tunlb(Settings::ipip("packet"))),
    contender("tunlb-xsk", Kind::Tunlb(Settings::ipip("xsk"))),
    #[cfg(feature = "xdp")]
    contender("tunlb-xsk-xsk", Kind::Tunlb(Settings::xsk_both_ways())),
    contender("tunlb-gue", Kind::Tunlb(Settings::gue(false))),
    contender("tunlb-gue-uso", Kind::Tunlb(Settings::gue(true))),
    contender("tunlb-queue-500", Kind::Tunlb(Settings::short_queue())),
    contender("tunlb-api-clients", Kind::Tunlb(Settings::with_api())),
    contender(BUSY_POLL, Kind::Tunlb(Settings::busy_poll())),
    contender(IPVS, Kind::Ipvs),
];

/// Needs the modules ip_vs and ip_vs_mh, and `ipvsadm`: measured where it is named.
const IPVS: &str = "ipvs";

const BUSY_POLL: &str = "tunlb-busy-poll";

const fn contender(name: &'static str, kind: Kind) -> Contender {
    Contender { name, kind }
}

impl Contender {
    /// Starts it as the lab's director.
    ///
    /// # Errors
    /// It does not forward.
    pub(crate) fn start(self, lab: &Lab) -> Result<Running<'_>> {
        match self.kind {
            Kind::Naive => start_naive(lab),
            Kind::Kernel => start_kernel(lab),
            Kind::Ipvs => start_ipvs(lab),
            Kind::Tunlb(settings) => {
                let director = start_tunlb(lab, settings)?;
                Ok(if settings.has_api() {
                    Running::Asked(director, start_clients(lab)?)
                } else {
                    Running::Process(director)
                })
            }
        }
    }

    /// Bytes of the headers that a frame at the sink has before the first packet.
    pub(crate) const fn overhead(self) -> usize {
        const ETHERNET: usize = 14;
        match self.kind {
            Kind::Kernel => ETHERNET,
            Kind::Naive | Kind::Ipvs => ETHERNET + 20,
            Kind::Tunlb(settings) => ETHERNET + settings.overhead(),
        }
    }

    /// Whether packets per second are measured: busy polling is about a single packet.
    pub(crate) fn is_for_throughput(&self) -> bool {
        self.name != BUSY_POLL
    }

    /// Whether a round trip is measured: the service reads no GUE.
    pub(crate) fn is_for_latency(&self) -> bool {
        !self.name.starts_with("tunlb-gue") && self.name != IPVS
    }
}

/// All contenders, or the naive loop and those named, separated by commas.
///
/// # Errors
/// There is none of that name.
pub(crate) fn selected(only: Option<&str>) -> Result<Vec<Contender>> {
    let Some(only) = only else {
        let usual = ALL.iter().filter(|contender| contender.name != IPVS);
        return Ok(usual.copied().collect());
    };
    let names: Vec<_> = ALL.iter().map(|contender| contender.name).collect();
    let only: Vec<_> = only.split(',').collect();
    for wanted in &only {
        ensure!(
            names.contains(wanted),
            "no contender {wanted}; there are {}",
            names.join(", ")
        );
    }
    Ok(ALL
        .iter()
        .copied()
        .filter(|contender| contender.name == NAIVE || only.contains(&contender.name))
        .collect())
}

/// A director at work.
#[derive(Debug)]
pub(crate) enum Running<'lab> {
    Process(Process),
    /// And the clients of its API.
    Asked(Process, Process),
    Kernel(&'lab Lab, Core),
    Ipvs(&'lab Lab, Core),
}

impl Running<'_> {
    /// CPU time since some fixed moment.
    ///
    /// A process: the run time of its threads, which holds the softirq work that its system calls
    /// trigger, the sink's reception included (unless the kernel accounts interrupt time apart,
    /// CONFIG_IRQ_TIME_ACCOUNTING). The kernel: all the time
    /// that the director's core was not idle, so nothing else should run there.
    ///
    /// # Errors
    /// The figures cannot be read.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        match self {
            Self::Process(process) | Self::Asked(process, _) => process.cpu_time(),
            Self::Kernel(_, core) | Self::Ipvs(_, core) => core.busy(),
        }
    }

    /// # Errors
    /// It did not end, or ended badly.
    pub(crate) fn stop(self) -> Result<()> {
        match self {
            Self::Process(process) => process.stop(),
            Self::Asked(process, clients) => clients.stop().and_then(|()| process.stop()),
            Self::Kernel(lab, _) => stop_kernel(lab),
            Self::Ipvs(lab, _) => stop_ipvs(lab),
        }
    }
}

/// The director's core while the kernel forwards.
#[derive(Debug)]
pub(crate) struct Core {
    since: Instant,
    idle_before: Duration,
}

impl Core {
    fn watch() -> Result<Self> {
        Ok(Self {
            since: Instant::now(),
            idle_before: idle_time(DIRECTOR_CORE)?,
        })
    }

    /// Not the sum of the busy columns: those are sampled by the tick, idle time is measured.
    fn busy(&self) -> Result<Duration> {
        let idle = idle_time(DIRECTOR_CORE)?.saturating_sub(self.idle_before);
        Ok(self.since.elapsed().saturating_sub(idle))
    }
}

/// What a core spent idle or waiting for IO since boot (proc_stat(5)).
fn idle_time(core: usize) -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let prefix = format!("cpu{core} ");
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .context("no such core")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [_user, _nice, _system, idle, iowait, ..] = ticks.as_slice() else {
        bail!("/proc/stat has another shape: {line}");
    };
    // USER_HZ is 100 on every Linux that Rust runs on.
    Ok(Duration::from_millis(10 * (idle + iowait)))
}

const VIP_ROUTE: &str = "10.0.0.100/32 via 10.0.2.11 dev d1";

/// Which cores take over what `d0` receives, as a hexadecimal mask.
const STEERING: &str = "/sys/class/net/d0/queues/rx-0/rps_cpus";

/// Plain forwarding has no process: receive packet steering moves it from the generator's core to the
/// director's.
fn start_kernel(lab: &Lab) -> Result<Running<'_>> {
    lab.director.ip(&format!("route add {VIP_ROUTE}"))?;
    steer(1 << DIRECTOR_CORE)?;
    Ok(Running::Kernel(lab, Core::watch()?))
}

fn stop_kernel(lab: &Lab) -> Result<()> {
    steer(0)?;
    lab.director.ip(&format!("route del {VIP_ROUTE}"))
}

/// The VIP is an address of the director, as IPVS wants it. Steered as plain forwarding is.
fn start_ipvs(lab: &Lab) -> Result<Running<'_>> {
    lab.director.ip(&format!("addr add {VIP}/32 dev lo"))?;
    ipvsadm(lab, &format!("-A -u {VIP}:{PORT} -s mh"))?;
    ipvsadm(lab, &format!("-a -u {VIP}:{PORT} -r {BACKEND} -i"))?;
    steer(1 << DIRECTOR_CORE)?;
    Ok(Running::Ipvs(lab, Core::watch()?))
}

fn stop_ipvs(lab: &Lab) -> Result<()> {
    steer(0)?;
    ipvsadm(lab, "-C")?;
    lab.director.ip(&format!("addr del {VIP}/32 dev lo"))
}

fn ipvsadm(lab: &Lab, words: &str) -> Result<()> {
    let mut command = lab.director.command("ipvsadm", DIRECTOR_CORE);
    let done = command.args(words.split_whitespace()).output();
    let done = done.context("cannot run ipvsadm (package ipvsadm)")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "ipvsadm {words}: {}", said.trim());
    Ok(())
}

fn steer(mask: u32) -> Result<()> {
    fs::write(STEERING, format!("{mask:x}")).with_context(|| format!("cannot write {STEERING}"))
}

fn start_naive(lab: &Lab) -> Result<Running<'_>> {
    let program = std::env::current_exe()?.display().to_string();
    Process::start(&lab.director, &program, &[options::NAIVE], "forwarding").map(Running::Process)
}

fn start_clients(lab: &Lab) -> Result<Process> {
    let program = std::env::current_exe()?.display().to_string();
    let path = api_socket().display().to_string();
    let arguments = [options::API_CLIENTS, &path];
    Process::start_on(
        &lab.director,
        GENERATOR_CORE,
        &program,
        &arguments,
        "connected",
    )
}

/// The release binary that cargo built for this bench, or the one that `TUNLB` names.
pub(crate) fn tunlb() -> String {
    std::env::var("TUNLB").unwrap_or_else(|_| env!("CARGO_BIN_EXE_tunlb").to_owned())
}

/// Starts `tunlb run` for the lab's VIP and returns when it says that it forwards.
///
/// # Errors
/// It ended or said nothing in time; its own words are in the error.
pub(crate) fn start_tunlb(lab: &Lab, settings: Settings) -> Result<Process> {
    if let Some(on) = settings.device_segments() {
        lab.let_sink_s_device_segment(on)?;
    }
    start_configured(lab, &settings.file())
}

/// As [`start_tunlb`], by the text of a configuration.
///
/// # Errors
/// The same.
pub(crate) fn start_configured(lab: &Lab, configuration: &str) -> Result<Process> {
    let file = tempfile::NamedTempFile::new().context("cannot make a configuration file")?;
    fs::write(&file, configuration)?;
    let path = file.path().display().to_string();
    let arguments = ["run", "-c", &path];
    Process::start(&lab.director, &tunlb(), &arguments, ": forwarding ")
}

/// A director that is a process; ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

/// How long a director may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

impl Process {
    /// Starts a program in a namespace, on the director's core, and returns when it says `ready`.
    ///
    /// # Errors
    /// It ended or did not say so in time; its own words are in the error.
    pub(crate) fn start(
        namespace: &Namespace,
        program: &str,
        arguments: &[&str],
        ready: &str,
    ) -> Result<Self> {
        Self::start_on(namespace, DIRECTOR_CORE, program, arguments, ready)
    }

    fn start_on(
        namespace: &Namespace,
        core: usize,
        program: &str,
        arguments: &[&str],
        ready: &str,
    ) -> Result<Self> {
        let mut command = namespace.command(program, core);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let stderr = child.stderr.take().context("no stderr")?;
        let process = Self { child };
        wait_until(ready, &lines_of(stderr)).with_context(|| format!("{program} {arguments:?}"))?;
        Ok(process)
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
            let run = schedstat
                .split_whitespace()
                .next()
                .context("empty schedstat")?;
            sum += Duration::from_nanos(run.parse()?);
        }
        Ok(sum)
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// It was gone already, or did not end.
    pub(crate) fn stop(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the director ended by itself: {status}");
        }
        let id = libc::pid_t::try_from(self.id())?;
        // SAFETY: plain system call; the child is not waited for yet, so the id is still its own.
        unsafe { libc::kill(id, libc::SIGTERM) };
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "the director did not end on SIGTERM"
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where the child has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The lines of a director's stderr, which is read to its end so that it never blocks.
fn lines_of(stderr: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // Nobody listens any more once the director is ready.
            sender.send(line).ok();
        }
    });
    receiver
}

fn wait_until(ready: &str, lines: &Receiver<String>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut said = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) if line.contains(ready) => return Ok(()),
            Ok(line) => said = format!("{said}\n{line}"),
            Err(_) => bail!("does not say \"{ready}\"; it said:{said}"),
        }
    }
}
