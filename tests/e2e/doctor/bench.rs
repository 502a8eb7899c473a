//! A site of one backend under examination, and what the doctor said of it.

use std::cell::RefCell;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::enter::tunlb;
use crate::lab::{Lab, Node};
use crate::site::{CLIENT, DIRECTOR, Director, Site, URL, WEB};

/// What names the packet's way to the doctor of a backend.
pub(crate) const WAY: [&str; 8] = [
    "--role",
    "backend",
    "--vip",
    WEB,
    "--client",
    CLIENT,
    "--director",
    DIRECTOR,
];

/// The usual site with a director that sends everything to b1.
pub(super) struct Bench {
    pub(super) site: Site,
    _director: Director,
    runs: RefCell<Vec<Duration>>,
}

impl Bench {
    /// Everything works, and stays as a test changes it.
    pub(super) fn new(lab: &Lab) -> Self {
        forget_sysctl_files(lab);
        Self::of(Site::by_hand(lab))
    }

    /// Everything works, and `tunlb decap --setup` keeps it so.
    pub(super) fn kept(lab: &Lab) -> Self {
        forget_sysctl_files(lab);
        Self::of(Site::new(lab))
    }

    fn of(site: Site) -> Self {
        let director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let bench = Self {
            site,
            _director: director,
            runs: RefCell::default(),
        };
        assert!(bench.answers(), "a site that works");
        bench
    }

    pub(super) fn backend(&self) -> &Node {
        &self.site.backends[0].node
    }

    /// What the doctor of the backend says of the client's way to the service.
    pub(super) fn examine(&self) -> Diagnosis {
        self.examine_with(&WAY)
    }

    pub(super) fn examine_with(&self, arguments: &[&str]) -> Diagnosis {
        let diagnosis = examine(self.backend(), arguments);
        self.runs.borrow_mut().push(diagnosis.took);
        diagnosis
    }

    /// Whether the client is answered; it may repeat its SYN.
    pub(super) fn answers(&self) -> bool {
        answers(&self.site.client, URL, "5")
    }

    /// Whether the client's first SYN is answered, which takes a millisecond where all is well.
    pub(super) fn answers_at_once(&self) -> bool {
        answers(&self.site.client, URL, "0.5")
    }

    /// Mends the backend until the client is answered and what was found is gone.
    pub(super) fn mend(&self, diagnosis: Diagnosis) -> Result<(), String> {
        let found = diagnosis.verdict();
        let mended = mend(self.backend(), || self.examine(), diagnosis)?;
        let verdict = mended.verdict();
        if verdict == found || !["pass", "warn"].contains(&mended.status()) {
            return Err(format!("mended: {verdict}\n{}", mended.complaints()));
        }
        if !self.answers() {
            return Err("mended, but the client gets no answer".to_owned());
        }
        Ok(())
    }

    /// A line that tells how many judgements were right, and how long the doctor took for one.
    pub(super) fn figure(&self, what: &str) -> String {
        let runs = self.runs.borrow();
        let sum: Duration = runs.iter().sum();
        let average = sum.as_secs_f64() / runs.len().max(1) as f64;
        let longest = runs.iter().max().copied().unwrap_or_default().as_secs_f64();
        let count = runs.len();
        format!(
            "figure: {what}; {count} runs of the doctor, {average:.2} s each, at most {longest:.2} s"
        )
    }
}

/// The machine's own files would speak of its next boot; the lab's are empty. Programs find a folder for
/// their locks.
pub(super) fn forget_sysctl_files(lab: &Lab) {
    lab.here().sh("mount -t tmpfs -o mode=0755 tmpfs /run
         mkdir /run/sysctl.d
         for folder in /etc/sysctl.d /usr/local/lib/sysctl.d /usr/lib/sysctl.d /lib/sysctl.d; do
             [ ! -d $folder ] || mount -t tmpfs tmpfs $folder
         done
         [ ! -e /etc/sysctl.conf ] || mount --bind /dev/null /etc/sysctl.conf");
}

/// Shell: the host's decapsulators do nothing any more until [`GO_ON`]; they would bring their device up.
pub(super) const PAUSE: &str = "signal=STOP; for pid in $(pgrep -x tunlb); do
    [ $(readlink /proc/$pid/ns/net) != $(readlink /proc/self/ns/net) ] || kill -$signal $pid; done";
/// Shell: they go on.
pub(super) const GO_ON: &str = "signal=CONT; for pid in $(pgrep -x tunlb); do
    [ $(readlink /proc/$pid/ns/net) != $(readlink /proc/self/ns/net) ] || kill -$signal $pid; done";

/// Runs what the doctor proposes, again and again as long as it proposes something: behind one fault
/// there may be another. Returns the last diagnosis, or the command that failed.
pub(super) fn mend(
    host: &Node,
    examine: impl Fn() -> Diagnosis,
    mut diagnosis: Diagnosis,
) -> Result<Diagnosis, String> {
    const MOST_ROUNDS: usize = 4;
    for _ in 0..MOST_ROUNDS {
        let commands = diagnosis.fix_of_verdict();
        if commands.is_empty() {
            break;
        }
        commands.iter().try_for_each(|command| run(host, command))?;
        diagnosis = examine();
    }
    Ok(diagnosis)
}

/// Runs a command of a finding; the error is what it said.
fn run(host: &Node, line: &str) -> Result<(), String> {
    let mut shell = host.command("sh");
    let output = shell
        .args(["-euc", line])
        .output()
        .expect("nsenter (util-linux)");
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{line}` failed: {}", said.trim()))
}

/// Whether a client gets the page, with so many seconds to connect.
pub(super) fn answers(client: &Node, url: &str, seconds: &str) -> bool {
    let mut curl = client.command("curl");
    curl.args(["--silent", "--fail", "--globoff", "--output", "/dev/null"])
        .args(["--max-time", "20", "--connect-timeout", seconds, url]);
    curl.status().expect("curl").success()
}

/// A doctor on a host, in English.
pub(super) fn doctor(host: &Node, arguments: &[&str]) -> Command {
    let mut command = host.command(tunlb());
    command.arg("doctor").args(arguments).args(["--lang", "en"]);
    command
}

/// What a doctor on a host says.
pub(super) fn examine(host: &Node, arguments: &[&str]) -> Diagnosis {
    let mut command = doctor(host, arguments);
    command.arg("--json");
    Diagnosis::of(command)
}

/// One answer of `tunlb doctor --json`.
#[derive(Debug)]
pub(super) struct Diagnosis {
    pub(super) document: Value,
    took: Duration,
}

impl Diagnosis {
    /// Runs a doctor, whose exit code must go with its verdict.
    pub(super) fn of(mut command: Command) -> Self {
        let start = Instant::now();
        let output = command.output().expect("nsenter (util-linux)");
        let took = start.elapsed();
        let [stdout, stderr] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        let document: Value = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{stdout}\n{stderr}"));
        let diagnosis = Self { document, took };
        let code = match diagnosis.status() {
            "pass" | "warn" => 0,
            "fail" => 1,
            _ => 2,
        };
        assert_eq!(output.status.code(), Some(code), "{stdout}\n{stderr}");
        assert_eq!(stderr, "", "nothing went wrong");
        diagnosis
    }

    pub(super) fn status(&self) -> &str {
        self.document["verdict"]["status"]
            .as_str()
            .expect("a status")
    }

    /// `fail B10`, or `pass`.
    pub(super) fn verdict(&self) -> String {
        match self.document["verdict"]["code"].as_str() {
            Some(code) => format!("{} {code}", self.status()),
            None => self.status().to_owned(),
        }
    }

    #[track_caller]
    pub(super) fn must_be(&self, verdict: &str) {
        assert_eq!(self.verdict(), verdict, "{}", self.complaints());
    }

    fn checks(&self) -> &[Value] {
        self.document["checks"].as_array().expect("checks")
    }

    pub(super) fn check(&self, code: &str) -> &Value {
        let mut checks = self.checks().iter();
        checks
            .find(|check| check["code"] == code)
            .unwrap_or_else(|| panic!("no check {code}"))
    }

    pub(super) fn status_of(&self, code: &str) -> &str {
        self.check(code)["status"].as_str().expect("a status")
    }

    /// What is not right, for a message: status, code, what is said, evidence.
    pub(super) fn complaints(&self) -> String {
        let of_interest = |check: &&Value| check["status"] != "pass" && check["status"] != "skip";
        let complaints = self.checks().iter().filter(of_interest);
        let text = |check: &Value| {
            let [status, code, summary, evidence, fix] =
                ["status", "code", "summary", "evidence", "fix"].map(|key| &check[key]);
            format!("{status} {code} {summary} {evidence} {fix}\n")
        };
        complaints.map(text).collect()
    }

    /// The commands of the finding that decides, ready to run in the lab; none where it asks for a human.
    pub(super) fn fix_of_verdict(&self) -> Vec<String> {
        let code = self.document["verdict"]["code"].as_str();
        code.map_or_else(Vec::new, |code| self.fix_of(code))
    }

    pub(super) fn fix_of(&self, code: &str) -> Vec<String> {
        let commands = self.check(code)["fix"].as_array().expect("commands");
        let commands = commands
            .iter()
            .map(|command| command.as_str().expect("a command"));
        commands
            .filter(|command| !command.starts_with('#'))
            .map(|command| command.replace("GATEWAY", "10.0.1.1"))
            .collect()
    }
}
