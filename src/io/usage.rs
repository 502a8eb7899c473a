//! What this process takes of the machine, read from `/proc/self` (proc_pid_stat(5)).

use std::fs;
use std::path::Path;
use std::time::Duration;

/// `AT_CLKTCK` of linux/auxvec.h: how many ticks of `/proc/PID/stat` a second has.
const CLOCK_TICKS: u64 = 17;

/// Fields of `/proc/PID/stat` behind the program's name, which may hold spaces and brackets; the first is the
/// third of all.
const USER_TIME: usize = 14 - 3;
const SYSTEM_TIME: usize = 15 - 3;
const START_TIME: usize = 22 - 3;

/// What a process takes. What `/proc` does not show is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time of all threads, in the kernel and outside.
    pub cpu: Option<Duration>,
    /// When it started, after the Unix epoch.
    pub started: Option<Duration>,
    /// Memory that is resident, in bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
}

impl Usage {
    /// That of this process now.
    #[must_use]
    pub fn read() -> Self {
        let read =
            |name: &str| fs::read_to_string(Path::new("/proc").join(name)).unwrap_or_default();
        let ticks = fs::read("/proc/self/auxv")
            .ok()
            .and_then(|auxv| ticks_per_second(&auxv));
        let times = ticks.and_then(|ticks| Times::parse(&read("self/stat"), ticks));
        let booted = boot_time(&read("stat"));
        let files = fs::read_dir("/proc/self/fd").map(|files| files.count() as u64);
        Self {
            cpu: times.map(|times| times.cpu),
            started: times.and_then(|times| Some(booted? + times.started_after_boot)),
            resident_bytes: resident(&read("self/status")),
            open_files: files.ok().map(|files| files.saturating_sub(1)), // without the one that counts
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    cpu: Duration,
    started_after_boot: Duration,
}

impl Times {
    fn parse(stat: &str, ticks_per_second: u64) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<_> = fields.split_ascii_whitespace().collect();
        let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
        let time = |ticks: u64| {
            let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second);
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        Some(Self {
            cpu: time(ticks(USER_TIME)? + ticks(SYSTEM_TIME)?),
            started_after_boot: time(ticks(START_TIME)?),
        })
    }
}

/// From the auxiliary vector: pairs of words of the machine's size and byte order (getauxval(3)).
fn ticks_per_second(auxv: &[u8]) -> Option<u64> {
    const WORD: usize = size_of::<usize>();
    let word = |bytes: &[u8]| Some(usize::from_ne_bytes(bytes.try_into().ok()?) as u64);
    let pairs = auxv.chunks_exact(2 * WORD);
    let mut pairs = pairs.filter_map(|pair| Some((word(&pair[..WORD])?, word(&pair[WORD..])?)));
    let (_, ticks) = pairs.find(|&(kind, _)| kind == CLOCK_TICKS)?;
    (ticks > 0).then_some(ticks)
}

/// `btime` of `/proc/stat`.
fn boot_time(stat: &str) -> Option<Duration> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

/// `VmRSS` of `/proc/PID/status`, which is in KiB.
fn resident(status: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let stat = "7 (a) S (b) ) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 12345 1 2 3";
        let times = Times::parse(stat, 100).unwrap();
        assert_eq!(times.cpu, Duration::from_secs(3));
        assert_eq!(times.started_after_boot, Duration::from_millis(123_450));
        assert_eq!(Times::parse("7 (a) S 1", 100), None);
        assert_eq!(Times::parse("", 100), None);
    }

    #[test]
    fn values_of_the_kernels_files() {
        assert_eq!(
            resident("VmHWM:\t 9 kB\nVmRSS:\t    1204 kB\n"),
            Some(1_232_896)
        );
        assert_eq!(resident("VmRSS:\t 1204 MB\n"), None);
        assert_eq!(
            boot_time("cpu 1 2\nbtime 1790000000\n"),
            Some(Duration::from_secs(1_790_000_000))
        );
        assert_eq!(ticks_per_second(&[0; 64]), None);
        assert_eq!(ticks_per_second(&[1, 2, 3]), None);
    }

    #[test]
    fn this_process_runs_since_not_long_ago_and_has_files_and_memory() {
        let usage = Usage::read();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let age = (now + Duration::from_secs(2)).checked_sub(usage.started.unwrap());
        assert!(age.unwrap() < Duration::from_secs(24 * 3600), "{usage:?}");
        assert!(usage.cpu.unwrap() < Duration::from_secs(24 * 3600));
        assert!(usage.open_files.unwrap() >= 3);
        assert!(usage.resident_bytes.unwrap() > 1 << 20);
    }
}
