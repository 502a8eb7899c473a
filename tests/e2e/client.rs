//! The API of a running director, asked by curl.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Node, wait_until};
use crate::process::Process;

/// Where the log says that the API is.
const AT: &str = "API at ";

/// A client of a director's API.
pub(crate) struct Client {
    node: Node,
    pub(crate) socket: PathBuf,
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Client {
    /// Of the director on that host, whose log says where its API is.
    pub(crate) fn of(node: &Node, director: &Process) -> Self {
        let mut socket = None;
        wait_until("the API", || {
            let log = director.stderr();
            let line = log
                .lines()
                .find_map(|line| Some(line.split_once(AT)?.1.to_owned()));
            socket = line;
            socket.is_some()
        });
        Self {
            node: node.clone(),
            socket: socket.map(PathBuf::from).expect("a path"),
        }
    }

    /// curl with these arguments.
    pub(crate) fn curl(&self, arguments: &[&str], target: &str) -> Command {
        let mut command = self.node.command("curl");
        command.args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--no-buffer",
        ]);
        command.arg("--unix-socket").arg(&self.socket);
        command.args(arguments).arg(format!("http://tunlb{target}"));
        command
    }

    pub(crate) fn ask(&self, arguments: &[&str], target: &str) -> Answer {
        let all = [&["--write-out", "\n%{http_code}"], arguments].concat();
        let output = self.curl(&all, target).output().expect("curl");
        assert!(output.status.success(), "{target}: {output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let (body, status) = text.rsplit_once('\n').expect("a status");
        Answer {
            status: status.parse().expect("a number"),
            body: body.to_owned(),
        }
    }

    pub(crate) fn get(&self, target: &str) -> Value {
        let answer = self.ask(&[], target);
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        answer.json()
    }

    /// Changes a backend of a VIP; returns what it is then.
    pub(crate) fn patch(&self, vip: &str, address: &str, patch: &str) -> Value {
        let target = format!("/v1/backends?vip={vip}&address={address}");
        let answer = self.ask(&["--request", "PATCH", "--data", patch], &target);
        assert_eq!(answer.status, 200, "{patch}: {answer:?}");
        answer.json()
    }
}
