//! Tunnel packets by the million: a BPF program run on live frames, which then enter the stack as if a
//! network card had received them (BPF_F_TEST_XDP_LIVE_FRAMES, linux/Documentation/bpf/bpf_prog_run.rst).
//!
//! No socket sends as fast on one core. The program gives each frame the port of a flow chosen at random, and
//! keeps its checksum right by the inverse in the first word of the payload.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};

use crate::lab::{GENERATOR_CORE, Namespace, pin};

/// Frames per system call. A call ends with a wait of some milliseconds, until the kernel has its pages back.
const REPEAT: u32 = 1 << 18;

/// What the flood consists of.
#[derive(Debug, Clone)]
pub(crate) struct Flood {
    /// An Ethernet frame to `lo`.
    pub(crate) frame: Vec<u8>,
    /// Where the source port of the inner packet is in the frame; the payload's first word is 8 bytes on.
    pub(crate) port_at: i16,
    /// How many flows; a power of two.
    pub(crate) flows: u16,
}

impl Flood {
    fn frame_bytes(&self) -> i16 {
        i16::try_from(self.frame.len()).unwrap_or(i16::MAX) // no frame is as long
    }
}

/// A flood that runs.
#[derive(Debug)]
pub(crate) struct Flooding {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Flooding {
    /// Starts the flood into `lo` of the namespace.
    pub(crate) fn start(namespace: &Namespace, flood: &Flood) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let program = load(flood).context("cannot load the BPF program (as root only)")?;
        let frame = flood.frame.clone();
        let run = {
            let shared = Arc::clone(&shared);
            move || -> Result<()> {
                pin(GENERATOR_CORE).context("cannot pin the flood")?;
                while !shared.stop.load(Ordering::Relaxed) {
                    send(&program, &frame).context("cannot send frames")?;
                    shared.sent.fetch_add(REPEAT.into(), Ordering::Relaxed);
                }
                Ok(())
            }
        };
        let thread = namespace.within(|| thread::spawn(run))?;
        Ok(Self { shared, thread })
    }

    /// Packets sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    /// What made it fail.
    pub(crate) fn stop(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("the flood panicked"))?
    }
}

/// One instruction: `struct bpf_insn` (linux/bpf.h).
const fn instruction(code: u8, registers: u8, offset: i16, value: i32) -> u64 {
    let low = code as u64 | (registers as u64) << 8 | (offset.cast_unsigned() as u64) << 16;
    low | (value.cast_unsigned() as u64) << 32
}

/// `port = 40000 + random % flows; payload = !port`.
fn program(flood: &Flood) -> Vec<u64> {
    let port = flood.port_at;
    let mask = i32::from(flood.flows - 1);
    let end = i32::from(flood.frame_bytes());
    vec![
        instruction(0xbf, 0x16, 0, 0),        // r6 = r1, the context
        instruction(0x85, 0x00, 0, 7),        // r0 = bpf_get_prandom_u32()
        instruction(0x57, 0x00, 0, mask),     // r0 &= mask
        instruction(0x07, 0x00, 0, 40_000),   // r0 += 40000
        instruction(0x61, 0x62, 0, 0),        // r2 = data
        instruction(0x61, 0x63, 4, 0),        // r3 = data_end
        instruction(0xbf, 0x24, 0, 0),        // r4 = r2
        instruction(0x07, 0x04, 0, end),      // r4 += bytes of the frame
        instruction(0x2d, 0x34, 4, 0),        // if r4 > r3, leave the frame as it is
        instruction(0xdc, 0x00, 0, 16),       // r0 = htobe16(r0)
        instruction(0x6b, 0x02, port, 0),     // port = r0
        instruction(0xa7, 0x00, 0, -1),       // r0 = !r0
        instruction(0x6b, 0x02, port + 8, 0), // payload = r0
        instruction(0xb7, 0x00, 0, 2),        // r0 = XDP_PASS
        instruction(0x95, 0x00, 0, 0),        // return
    ]
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// The start of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instructions: u32,
    first: u64,
    license: u64,
    log: [u64; 2],
}

/// `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct RunAttributes {
    program: i32,
    returned: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context: [u32; 6],
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

fn load(flood: &Flood) -> io::Result<OwnedFd> {
    let program = program(flood);
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_XDP,
        instructions: u32::try_from(program.len()).map_err(io::Error::other)?,
        first: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
    };
    let descriptor = bpf(BPF_PROG_LOAD, &attributes)?;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn send(program: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    let attributes = RunAttributes {
        program: program.as_raw_fd(),
        size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr() as u64,
        repeat: REPEAT,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch: 64,
        ..RunAttributes::default()
    };
    bpf(BPF_PROG_TEST_RUN, &attributes).map(drop)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes and what they point at live until the call returns; the kernel reads them, and
    // writes results into no more than they hold, which nothing reads.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    let returned = libc::c_int::try_from(returned).map_err(io::Error::other)?;
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(returned)
}
