//! Other programs, asked for what only they can tell: found where administrators' tools are, run
//! without input and with a deadline, their output taken whole.

use std::env;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// Where such programs are, also for users whose `PATH` has none of these folders.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Output beyond this is not read: 64 MiB, some hundred thousand firewall rules.
const LONGEST: u64 = 64 << 20;

/// Why a program told nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is none of that name.
    #[error("{program} is not installed")]
    NotInstalled {
        /// Its name.
        program: String,
    },
    /// It could not be run.
    #[error("run {program}: {cause}")]
    Run {
        /// Its name.
        program: String,
        /// The system's error.
        cause: io::Error,
    },
    /// It did not end in time.
    #[error("{program} gave no answer within {} seconds", .deadline.as_secs_f32())]
    TooSlow {
        /// Its name.
        program: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It printed more than is read.
    #[error("{program} printed more than {LONGEST} bytes")]
    TooLong {
        /// Its name.
        program: String,
    },
    /// It failed.
    #[error("{program}: {status}: {complaint}")]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The first line that it wrote to stderr.
        complaint: String,
    },
}

/// The program's path, from `PATH` and from where administrators' tools are.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from));
    let mut candidates = folders.map(|folder| folder.join(program));
    candidates.find(|candidate| candidate.is_file())
}

/// What the program prints to stdout, in English (`LC_ALL=C`). Bytes that are no UTF-8 are replaced.
///
/// # Errors
/// Any [`CommandError`]. A program that is too slow is killed.
pub fn output(
    program: &str,
    arguments: &[&str],
    deadline: Duration,
) -> Result<String, CommandError> {
    let path = find(program).ok_or_else(|| CommandError::NotInstalled {
        program: program.to_owned(),
    })?;
    let failed = |cause| CommandError::Run {
        program: program.to_owned(),
        cause,
    };
    let mut child = spawn(&path, arguments).map_err(failed)?;
    let output = collect(&mut child, program, deadline);
    if output.is_err() {
        // It may have ended meanwhile: then there is nothing to kill.
        child.kill().unwrap_or_default();
    }
    let status = child.wait().map_err(failed)?;
    let (stdout, stderr) = output?;
    if !status.success() {
        return Err(CommandError::Failed {
            program: program.to_owned(),
            status,
            complaint: stderr.lines().next().unwrap_or_default().to_owned(),
        });
    }
    Ok(stdout)
}

fn spawn(path: &Path, arguments: &[&str]) -> io::Result<Child> {
    Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Both outputs, read at the same time: a program blocks while nobody reads the other one.
fn collect(
    child: &mut Child,
    program: &str,
    deadline: Duration,
) -> Result<(String, String), CommandError> {
    let end = Instant::now() + deadline;
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let receive = |pipe: Receiver<Vec<u8>>| {
        let left = end.saturating_duration_since(Instant::now());
        pipe.recv_timeout(left).map_err(|_| CommandError::TooSlow {
            program: program.to_owned(),
            deadline,
        })
    };
    let (stdout, stderr) = (receive(stdout)?, receive(stderr)?);
    if u64::try_from(stdout.len()).is_ok_and(|length| length > LONGEST) {
        return Err(CommandError::TooLong {
            program: program.to_owned(),
        });
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((text(stdout), text(stderr)))
}

/// Reads a pipe to its end on a thread of its own, which ends with the program.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // A pipe that breaks has told what it will tell; the exit status says the rest.
            pipe.take(LONGEST + 1)
                .read_to_end(&mut bytes)
                .unwrap_or_default();
        }
        sender.send(bytes).unwrap_or_default(); // nobody waits any more after the deadline
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn shell(script: &str) -> Result<String, CommandError> {
        output("sh", &["-c", script], SECOND)
    }

    #[test]
    fn output_is_taken_whole() {
        assert_eq!(shell("echo $LC_ALL; cat").unwrap(), "C\n");
        let both = "head -c 200000 /dev/zero >&2; head -c 300000 /dev/zero";
        assert_eq!(shell(both).unwrap().len(), 300_000);
    }

    #[test]
    fn failures_name_the_program_and_its_complaint() {
        let error = shell("echo no such table >&2; echo more >&2; exit 3").unwrap_err();
        assert_eq!(error.to_string(), "sh: exit status: 3: no such table");
        let error = output("no-such-program", &[], SECOND).unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed");
        let error = output("sleep", &["60"], SECOND / 20).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sleep gave no answer within 0.05 seconds"
        );
    }
}
