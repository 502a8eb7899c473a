//! How packets are read: `director.workers`, `cpus`, `busy_poll` and `queue_length`.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::draft::DirectorDraft;
use super::problem::{Fault, Problem};
use super::problems::Collector;
use super::value::{self, LEFT_OUT, MAX_WORKERS, Raw};
use super::{Config, ConfigError, duration};

/// CPUs are numbered below it (`CPU_SETSIZE`, sched_setaffinity(2)).
const CPU_BOUND: u16 = 1024;

/// The smallest TUN queue: a burst.
pub const MIN_QUEUE_LENGTH: u32 = 64;
/// The largest TUN queue: full of 1500-byte packets, which the kernel charges with 2304 bytes each, it
/// holds 150 MB.
pub const MAX_QUEUE_LENGTH: u32 = 65_536;
/// 10 ms of 400,000 packets a second; the kernel's 500 are 1.25 ms.
pub(super) const DEFAULT_QUEUE_LENGTH: u32 = 4096;

const MIN_BUSY_POLL: Duration = Duration::from_micros(1);
/// Beyond 10 ms a worker never sleeps at a hundred packets a second.
const MAX_BUSY_POLL: Duration = Duration::from_millis(10);

/// How many workers there are, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerCount {
    /// As many as CPUs are listed, else one per core that this process may use.
    Auto,
    Number(NonZeroUsize),
}

pub(super) const DEFAULT_COUNT: WorkerCount = WorkerCount::Number(NonZeroUsize::MIN);

impl WorkerCount {
    pub(super) fn number(self, cpus: &Cpus) -> NonZeroUsize {
        match (self, NonZeroUsize::new(cpus.0.len())) {
            (Self::Number(number), _) => number,
            (Self::Auto, Some(listed)) => listed,
            (Self::Auto, None) => {
                let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
                cores.min(const { NonZeroUsize::new(MAX_WORKERS).expect("not 0") })
            }
        }
    }
}

/// The CPU of each worker, by the worker's number; empty: the scheduler chooses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpus(pub(super) Vec<u16>);

impl Cpus {
    /// Their numbers, in the order of the workers.
    #[must_use]
    pub fn numbers(&self) -> &[u16] {
        &self.0
    }
}

impl fmt::Display for Cpus {
    /// As the file writes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<_> = self.0.iter().map(u16::to_string).collect();
        write!(f, "[{}]", numbers.join(", "))
    }
}

impl Config {
    /// Whether workers can run on the CPUs that are listed, of those that are `usable`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], with the first that is not.
    pub fn check_cpus(&self, usable: &[u16]) -> Result<(), ConfigError> {
        let cpus = &self.director.cpus;
        let Some(cpu) = cpus.0.iter().find(|cpu| !usable.contains(cpu)) else {
            return Ok(());
        };
        let problem = Problem {
            file: None,
            line: None,
            key: Some("director.cpus".to_owned()),
            value: Some(cpus.to_string()),
            message: format!("CPU {cpu} is not one that this process may use"),
            accepted: Some(format!("some of {}, or {LEFT_OUT}", Cpus(usable.to_vec()))),
        };
        let mut problems = Collector::default();
        problems.push(problem);
        Err(ConfigError::Invalid(problems.finish()))
    }
}

/// The number of threads, or "auto".
pub(super) fn count(raw: Raw<'_>) -> Result<WorkerCount, Fault> {
    if matches!(raw, Raw::Text("auto")) {
        return Ok(WorkerCount::Auto);
    }
    let number = value::whole(raw, 1..=MAX_WORKERS as u64, " or \"auto\"")?;
    Ok(WorkerCount::Number(value::non_zero(number)))
}

pub(super) fn cpus(raw: Raw<'_>) -> Result<Cpus, Fault> {
    let accepted = format!("an array of CPU numbers below {CPU_BOUND} such as [0, 2]");
    let Raw::List(entries) = raw else {
        return Err(value::wrong_type(&raw, &accepted));
    };
    let mut cpus = Vec::new();
    for entry in entries {
        let number = value::whole(entry, 0..=u64::from(CPU_BOUND) - 1, "")
            .map_err(|fault| Fault::new(fault.message, &*accepted))?;
        let cpu = u16::try_from(number).unwrap_or(CPU_BOUND);
        if cpus.contains(&cpu) {
            let accepted = "each CPU once: two workers on one take turns";
            return Err(Fault::new(format!("CPU {cpu} twice"), accepted));
        }
        cpus.push(cpu);
    }
    Ok(Cpus(cpus))
}

/// As many CPUs as workers, where CPUs are listed.
pub(super) fn cpus_for_workers(director: &DirectorDraft) -> Option<Problem> {
    let (workers, cpus) = (director.workers.as_ref()?, director.cpus.as_ref()?);
    let listed = cpus.value.0.len();
    let WorkerCount::Number(number) = workers.value else {
        return None;
    };
    let message = format!("{listed} CPUs for workers = {number}; each worker has one of its own");
    let accepted = format!("workers = {listed} or \"auto\"; or {LEFT_OUT}");
    let fits = listed == 0 || listed == number.get();
    (!fits).then(|| cpus.site.problem(Fault::new(message, accepted)))
}

/// How long the TUN is polled before a worker sleeps; zero is "off".
pub(super) fn busy_poll(raw: Raw<'_>) -> Result<Duration, Fault> {
    if matches!(raw, Raw::Text("off")) {
        return Ok(Duration::ZERO);
    }
    duration::read(raw, MIN_BUSY_POLL..=MAX_BUSY_POLL, "50us").map_err(|fault| {
        let accepted = fault.accepted.unwrap_or_default();
        Fault::new(fault.message, format!("\"off\" or {accepted}"))
    })
}

/// As the file writes it.
#[must_use]
pub fn busy_poll_text(busy_poll: Duration) -> String {
    if busy_poll.is_zero() {
        "off".to_owned()
    } else {
        duration::text(busy_poll)
    }
}

pub(super) fn queue_length(raw: Raw<'_>) -> Result<u32, Fault> {
    let bounds = u64::from(MIN_QUEUE_LENGTH)..=u64::from(MAX_QUEUE_LENGTH);
    let number = value::whole(raw, bounds, "")?;
    Ok(u32::try_from(number).unwrap_or(MAX_QUEUE_LENGTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: fmt::Debug>(result: Result<T, Fault>) -> String {
        result.unwrap_err().message
    }

    fn numbers(numbers: &[i128]) -> Raw<'static> {
        Raw::List(numbers.iter().map(|&number| Raw::Whole(number)).collect())
    }

    #[test]
    fn counts() {
        let number = |raw| count(raw).unwrap().number(&Cpus::default()).get();
        assert_eq!(number(Raw::Whole(256)), 256);
        assert!((1..=MAX_WORKERS).contains(&number(Raw::Text("auto"))));
        let three = Cpus(vec![5, 1, 3]);
        assert_eq!(WorkerCount::Auto.number(&three).get(), 3);
        assert_eq!(message(count(Raw::Whole(0))), "out of range");
        assert_eq!(message(count(Raw::Whole(257))), "out of range");
        assert_eq!(message(count(Raw::Text("many"))), "wrong type (string)");
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpus(numbers(&[2, 0, 1023])), Ok(Cpus(vec![2, 0, 1023])));
        assert_eq!(cpus(numbers(&[])), Ok(Cpus::default()));
        for (raw, expected) in [
            (numbers(&[1024]), "out of range"),
            (numbers(&[-1]), "out of range"),
            (numbers(&[2, 0, 2]), "CPU 2 twice"),
            (Raw::Whole(2), "wrong type (integer)"),
            (Raw::Text("0-3"), "wrong type (string)"),
            (Raw::List(vec![numbers(&[1])]), "wrong type (array)"),
        ] {
            assert_eq!(message(cpus(raw.clone())), expected, "{raw:?}");
        }
    }

    #[test]
    fn lengths_and_times() {
        assert_eq!(queue_length(Raw::Whole(64)), Ok(64));
        assert_eq!(queue_length(Raw::Whole(65_536)), Ok(65_536));
        assert_eq!(message(queue_length(Raw::Whole(63))), "out of range");
        assert_eq!(message(queue_length(Raw::Whole(65_537))), "out of range");
        for (text, us) in [("off", 0), ("1us", 1), ("50us", 50), ("10ms", 10_000)] {
            let read = busy_poll(Raw::Text(text));
            assert_eq!(read, Ok(Duration::from_micros(us)));
            assert_eq!(busy_poll_text(read.unwrap()), text);
        }
        for text in ["0us", "11ms", "1s"] {
            assert_eq!(message(busy_poll(Raw::Text(text))), "out of range");
        }
    }

    fn config(director: &str) -> Result<Config, ConfigError> {
        let text = format!(
            "[director]\n{director}\n[[vip]]\naddress = \"10.0.0.100\"\n\
             backend = [{{ address = \"10.0.1.11\" }}]\n"
        );
        Config::parse("f", &text)
    }

    #[test]
    fn a_cpu_for_each_worker() {
        for (director, workers) in [
            ("cpus = [4]", 1),
            ("cpus = [4, 2]\nworkers = \"auto\"", 2),
            ("cpus = [4, 2]\nworkers = 2", 2),
            ("cpus = []\nworkers = 3", 3),
        ] {
            let config = config(director).unwrap();
            assert_eq!(config.director.workers.get(), workers, "{director}");
        }
        for director in ["cpus = [4, 2]", "cpus = [4]\nworkers = 2"] {
            let problems = config(director).unwrap_err().to_string();
            assert!(
                problems.contains("each worker has one of its own"),
                "{problems}"
            );
        }
    }

    #[test]
    fn cpus_that_cannot_be_used() {
        let config = config("cpus = [0, 7]\nworkers = \"auto\"").unwrap();
        assert!(config.check_cpus(&[0, 1, 7]).is_ok());
        assert_eq!(
            config.check_cpus(&[0, 1]).unwrap_err().to_string(),
            "director.cpus [0, 7]: CPU 7 is not one that this process may use; \
             accepted: some of [0, 1], or the key left out"
        );
    }
}
