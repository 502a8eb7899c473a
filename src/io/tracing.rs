//! Why the kernel dropped packets: the tracepoint `skb:kfree_skb` with its reasons (since Linux 5.17),
//! read in a tracing instance of its own, so that nobody else's tracing is disturbed.
//!
//! It is host-wide, and a record carries no packet: what is counted may be other packets' and other
//! network namespaces'. Read first: Documentation/trace/ftrace.rst and events.rst of the kernel.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::{fs, process};

/// Where tracefs is mounted, by systemd and by older systems.
const MOUNT_POINTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

const EVENT: &str = "events/skb/kfree_skb";

/// IPv4 and IPv6 packets.
const FILTER: &str = "protocol == 0x0800 || protocol == 0x86dd";

/// Of packets that were used up, and of drops that tell nothing.
const NO_REASONS: [&str; 2] = ["CONSUMED", "NOT_SPECIFIED"];

/// KiB for each CPU; older records make room for newer ones.
const BUFFER_KIB: &str = "256";

/// Why drop reasons cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// tracefs is not mounted, or hidden from this process.
    #[error("no tracefs at {}; as root: mount -t tracefs nodev {}", MOUNT_POINTS[0], MOUNT_POINTS[0])]
    NoTracefs,
    /// The tracepoint is not there, or tells no reason.
    #[error("this kernel's skb:kfree_skb tells no reasons (they came with Linux 5.17)")]
    NoReasons,
    /// A file of tracefs.
    #[error("{operation} {}: {cause}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
}

/// A tracing instance that records drops; dropping it removes it.
#[derive(Debug)]
pub struct DropTrace {
    folder: PathBuf,
    marks: u64,
}

impl DropTrace {
    /// Begins to record.
    ///
    /// # Errors
    /// [`TraceError`]; nothing is left behind.
    pub fn begin() -> Result<Self, TraceError> {
        let tracefs = MOUNT_POINTS.map(Path::new).into_iter();
        let mut mounted = tracefs.filter(|folder| folder.join("instances").is_dir());
        Self::begin_in(mounted.next().ok_or(TraceError::NoTracefs)?)
    }

    fn begin_in(tracefs: &Path) -> Result<Self, TraceError> {
        let format = tracefs.join(EVENT).join("format");
        let told = fs::read_to_string(&format).map_err(file("read", &format))?;
        if !told.contains(" reason;") {
            return Err(TraceError::NoReasons);
        }
        let trace = Self {
            folder: new_instance(&tracefs.join("instances"))?,
            marks: 0,
        };
        trace.write("buffer_size_kb", BUFFER_KIB)?;
        trace.write("events/skb/kfree_skb/filter", FILTER)?;
        trace.write("trace", "")?;
        trace.write("events/skb/kfree_skb/enable", "1")?;
        Ok(trace)
    }

    /// Marks this moment in the record; returns the mark's name.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn mark(&mut self) -> Result<u64, TraceError> {
        self.marks += 1;
        self.write("trace_marker", &mark_text(self.marks))?;
        Ok(self.marks)
    }

    /// How many packets were dropped for each reason since that mark, as far as the record goes back.
    ///
    /// # Errors
    /// [`TraceError::File`].
    pub fn reasons_since(&self, mark: u64) -> Result<BTreeMap<String, u64>, TraceError> {
        let path = self.folder.join("trace");
        let text = fs::read_to_string(&path).map_err(file("read", &path))?;
        Ok(reasons(&text, mark))
    }

    fn write(&self, name: &str, value: &str) -> Result<(), TraceError> {
        let path = self.folder.join(name);
        fs::write(&path, value).map_err(file("write", &path))
    }
}

impl Drop for DropTrace {
    fn drop(&mut self) {
        // The kernel removes the files along with the folder, and with them the event. Where it refuses,
        // nothing is left to try.
        fs::remove_dir(&self.folder).ok();
    }
}

/// Another process may have the same number, in another process namespace or before it was killed.
fn new_instance(instances: &Path) -> Result<PathBuf, TraceError> {
    let name = format!("tunlb-{}", process::id());
    let mut folder = instances.join(&name);
    for other in 2..10 {
        match fs::create_dir(&folder) {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                folder = instances.join(format!("{name}-{other}"));
            }
            made => {
                return made
                    .map(|()| folder.clone())
                    .map_err(file("create", &folder));
            }
        }
    }
    Err(file("create", &folder)(io::ErrorKind::AlreadyExists.into()))
}

fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TraceError {
    let path = path.to_owned();
    move |cause| TraceError::File {
        operation,
        path,
        cause,
    }
}

fn mark_text(mark: u64) -> String {
    format!("tunlb mark {mark};")
}

/// Records are in the order of their time. A mark that newer records have overwritten lets all count.
fn reasons(text: &str, mark: u64) -> BTreeMap<String, u64> {
    let since = text.rfind(&mark_text(mark)).unwrap_or_default();
    let mut reasons = BTreeMap::new();
    for line in text[since..].lines() {
        let reason = line
            .split_once(" reason: ")
            .map(|(_, reason)| reason.trim());
        let tells = |reason: &&str| line.contains("kfree_skb:") && !NO_REASONS.contains(reason);
        if let Some(reason) = reason.filter(tells) {
            *reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
          <idle>-0       [001] ..s1.   100.000001: kfree_skb: skbaddr=000000002f rx_sk=0 protocol=2048 location=ip_rcv_finish_core+0x1b8/0x5c0 reason: IP_RPFILTER
           tunlb-77      [000] .....   100.000002: tracing_mark_write: tunlb mark 1;
          <idle>-0       [001] ..s1.   100.000003: kfree_skb: skbaddr=000000003f rx_sk=0 protocol=2048 location=nf_hook_slow+0xa0/0x1b0 reason: NETFILTER_DROP
           tunlb-77      [000] .....   100.000004: tracing_mark_write: tunlb mark 12;
          <idle>-0       [001] ..s1.   100.000005: kfree_skb: skbaddr=000000002f rx_sk=0 protocol=2048 location=ip_rcv_finish_core+0x1b8/0x5c0 reason: IP_RPFILTER
          <idle>-0       [001] ..s1.   100.000006: kfree_skb: skbaddr=000000002f rx_sk=0 protocol=2048 location=ip_rcv_finish_core+0x1b8/0x5c0 reason: IP_RPFILTER
          <idle>-0       [001] ..s1.   100.000007: kfree_skb: skbaddr=000000004f rx_sk=0 protocol=2048 location=icmp_rcv+0x1b8/0x5c0 reason: NOT_SPECIFIED
";

    #[test]
    fn reasons_since_a_mark() {
        let counted = |mark| {
            let all = reasons(TRACE, mark).into_iter();
            all.map(|(reason, count)| format!("{reason} {count}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(counted(12), ["IP_RPFILTER 2"]);
        assert_eq!(counted(1), ["IP_RPFILTER 2", "NETFILTER_DROP 1"]);
        assert_eq!(counted(7), ["IP_RPFILTER 3", "NETFILTER_DROP 1"]);
    }

    #[test]
    fn a_folder_that_is_no_tracefs() {
        let folder = tempfile::tempdir().unwrap();
        let error = DropTrace::begin_in(folder.path()).unwrap_err();
        assert!(error.to_string().starts_with("read "), "{error}");
        let event = folder.path().join(EVENT);
        fs::create_dir_all(&event).unwrap();
        fs::write(event.join("format"), "field:void * location;").unwrap();
        let error = DropTrace::begin_in(folder.path()).unwrap_err();
        assert!(matches!(error, TraceError::NoReasons), "{error}");
    }
}
