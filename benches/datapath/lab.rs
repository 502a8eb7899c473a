//! The lab: three network namespaces in a row.
//!
//! ```text
//!   generator              director                      sink
//!   10.0.0.2 g0 ──────── d0 10.0.0.1
//!                           10.0.2.1 d1 ──────────────── s0 10.0.2.11
//!   core 0                 core 1                        core of whoever sends to it
//! ```
//!
//! The VIP 10.0.0.100 is routed to the director. Neighbour entries are permanent, and the one for the
//! sink holds an address that is not its own, so that its stack counts a packet and drops it at once. A
//! veth runs the receiver's part in the context of the sender.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};

/// The address that the generator floods.
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
/// The port that it floods.
pub(crate) const PORT: u16 = 9000;
/// Where the director sends to.
pub(crate) const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 11);

/// The core of the generator.
pub(crate) const GENERATOR_CORE: usize = 0;
/// The core of the director.
pub(crate) const DIRECTOR_CORE: usize = 1;

/// The namespaces, alive as long as this value or a process inside.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) generator: Namespace,
    pub(crate) director: Namespace,
    sink: Namespace,
}

impl Lab {
    /// Builds the lab from within a network and mount namespace made for it.
    ///
    /// # Errors
    /// A step that failed, with what it said.
    pub(crate) fn build() -> Result<Self> {
        let lab = Self {
            generator: Namespace::new()?,
            director: Namespace::new()?,
            sink: Namespace::new()?,
        };
        lab.quieten()?;
        lab.link()?;
        lab.route()?;
        lab.director.mount_sysfs()?;
        Ok(lab)
    }

    fn quieten(&self) -> Result<()> {
        for namespace in [&self.generator, &self.director, &self.sink] {
            namespace.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
            namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
            namespace.ip("link set lo up")?;
        }
        self.director.sysctl("ipv4/ip_forward", "1")?;
        self.director.sysctl("ipv4/conf/all/rp_filter", "0")?;
        self.director.sysctl("ipv4/conf/default/rp_filter", "0")
    }

    fn link(&self) -> Result<()> {
        let (generator, sink) = (self.generator.path(), self.sink.path());
        self.director.ip(&format!(
            "link add d0 address 02:00:00:00:00:01 type veth \
             peer name g0 address 02:00:00:00:00:02 netns {generator}"
        ))?;
        self.director.ip(&format!(
            "link add d1 address 02:00:00:00:02:01 type veth \
             peer name s0 address 02:00:00:00:02:02 netns {sink}"
        ))
    }

    fn route(&self) -> Result<()> {
        for step in [
            "addr add 10.0.0.2/30 dev g0",
            "link set g0 gso_max_segs 1 up",
        ] {
            self.generator.ip(step)?;
        }
        for step in ["addr add 10.0.2.11/24 dev s0", "link set s0 up"] {
            self.sink.ip(step)?;
        }
        for step in [
            "addr add 10.0.0.1/30 dev d0",
            "addr add 10.0.2.1/24 dev d1",
            "link set d0 up",
            "link set d1 up",
            "neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev d0 nud permanent",
            "neigh add 10.0.2.11 lladdr 02:00:00:00:02:fe dev d1 nud permanent",
        ] {
            self.director.ip(step)?;
        }
        self.generator
            .ip("neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev g0 nud permanent")?;
        self.generator.ip("route add 10.0.0.100/32 via 10.0.0.1")
    }

    /// Packets that have arrived at the sink.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub(crate) fn received(&self) -> Result<u64> {
        let table = self
            .sink
            .within(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix("s0:"));
        let packets = line.and_then(|counters| counters.split_whitespace().nth(1));
        packets
            .context("no counters of s0")?
            .parse()
            .context("counter of s0")
    }
}

/// A network namespace without a name.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    pub(crate) fn new() -> Result<Self> {
        let made = thread::spawn(|| {
            // SAFETY: moves this thread alone to a new namespace; it touches no memory.
            succeeded(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made
            .join()
            .map_err(|_| anyhow!("the thread for a namespace panicked"))?;
        Ok(Self {
            file: file.context("cannot make a network namespace")?,
        })
    }

    /// Moves the calling thread, and what it starts from now on, into this namespace.
    pub(crate) fn enter(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open; only the calling thread moves.
        succeeded(unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) })
    }

    /// What `work` returns in this namespace.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| self.enter().map(|()| work()));
            let result = inside
                .join()
                .map_err(|_| anyhow!("work in a namespace panicked"))?;
            result.context("cannot enter a namespace")
        })
    }

    /// A command that will run in this namespace, on `core`, and end with this process.
    pub(crate) fn command(&self, program: &str, core: usize) -> Command {
        let mut command = Command::new(program);
        let namespace = self.file.as_raw_fd();
        let enter = move || {
            // SAFETY: plain system calls that allocate nothing, so they may stand between fork and
            // exec; the descriptor is open in the child too.
            unsafe {
                succeeded(libc::setns(namespace, libc::CLONE_NEWNET))?;
                succeeded(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM))?;
            }
            pin(core)
        };
        // SAFETY: see above.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `ip` with these words.
    pub(crate) fn ip(&self, words: &str) -> Result<()> {
        let mut command = self.command("ip", GENERATOR_CORE);
        let done = command.args(words.split_whitespace()).output();
        let done = done.context("cannot run ip (package iproute2)")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "ip {words}: {}", said.trim());
        Ok(())
    }

    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.within(|| fs::write(&path, value))?
            .with_context(|| format!("cannot write {path}"))
    }

    /// Makes /sys show this namespace's devices, for all of this program's mount namespace.
    fn mount_sysfs(&self) -> Result<()> {
        let mut command = self.command("mount", GENERATOR_CORE);
        let status = command.args(["-t", "sysfs", "sysfs", "/sys"]).status();
        ensure!(
            status.context("cannot run mount")?.success(),
            "cannot mount sysfs"
        );
        Ok(())
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

/// Keeps the calling thread on one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    // SAFETY: a cpu_set_t is a plain bit set, for which zeros are valid; CPU_SET checks its bounds,
    // and the kernel only reads the set.
    unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        succeeded(libc::sched_setaffinity(
            0,
            size_of::<libc::cpu_set_t>(),
            &raw const cores,
        ))
    }
}

/// What a system call returned, as a result.
pub(crate) fn succeeded(returned: libc::c_int) -> io::Result<()> {
    if returned == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
