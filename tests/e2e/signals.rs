//! Every signal that is not a stop is heard and ends nothing; a stop undoes everything, whenever it comes.

use std::thread;
use std::time::Duration;

use crate::enter::{in_lab, tunlb};
use crate::lab::{Node, wait_until};
use crate::leftovers::{assert_same, dump, host};
use crate::process::{Process, Signal};
use crate::site::{VIP, succeeded};

const RUN: [&str; 6] = [
    "run",
    "--setup",
    "--vip",
    "10.0.0.100:80/tcp",
    "--backend",
    "10.0.1.11",
];
const DECAP: [&str; 4] = ["decap", "--setup", "--vip", VIP];

/// By number: not every shell has names for them. 16, SIGSTKFLT, is below.
const REAL_TIME: [&str; 3] = ["34", "50", "64"];

fn start(host: &Node, arguments: &[&str]) -> Process {
    let mut command = host.command(tunlb());
    command.args(arguments);
    let word = if arguments[0] == "run" {
        "tunlb0: forwarding"
    } else {
        "decapsulating"
    };
    host.start(arguments[0], command, word)
}

#[test]
fn signals_that_are_not_a_stop_end_nothing() {
    in_lab(|lab| {
        let host = host(lab);
        let before = dump(&host);
        for arguments in [&RUN[..], &DECAP] {
            let mut process = start(&host, arguments);
            let running = dump(&host);
            let named = [
                "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "16", "PIPE", "XFSZ", "CHLD", "URG",
                "WINCH", "CONT",
            ];
            for signal in named.iter().chain(&REAL_TIME) {
                process.signal_named(signal);
            }
            process.signal(Signal::Hup);
            process.wait_for("no file to read again");
            process.signal(Signal::Usr1);
            let text = if arguments[0] == "run" {
                "dropped nothing"
            } else {
                "injected"
            };
            process.wait_for(text);
            assert!(process.runs());
            assert_same(&running, &dump(&host), "signals that are not a stop");
            let ended = succeeded(process.stop(Signal::Term));
            for name in ["SIGUSR2", "SIGPWR", "SIGRTMIN+16"] {
                let said = format!("{name} means nothing here");
                assert_eq!(ended.stderr.matches(&said).count(), 1, "{}", ended.stderr);
            }
            assert_same(&before, &dump(&host), arguments[0]);
        }
    });
}

#[test]
fn every_stop_undoes_and_is_named() {
    in_lab(|lab| {
        let host = host(lab);
        let before = dump(&host);
        for arguments in [&RUN[..], &DECAP] {
            for signal in ["INT", "TERM", "QUIT", "ABRT", "XCPU", "TRAP", "SYS"] {
                let process = start(&host, arguments);
                process.signal_named(signal);
                let ended = succeeded(process.wait());
                assert!(
                    ended.stderr.contains(&format!("stopping: SIG{signal}")),
                    "{}",
                    ended.stderr
                );
                assert_same(&before, &dump(&host), signal);
            }
        }
    });
}

/// Signals that come while it starts or stops: nothing is left in either case.
#[test]
fn a_stop_during_start_or_stop_leaves_nothing() {
    in_lab(|lab| {
        let host = host(lab);
        let before = dump(&host);
        for arguments in [&RUN[..], &DECAP] {
            for delay in 0..20 {
                let mut command = host.command(tunlb());
                command.args(arguments);
                let mut process = host.spawn("early", command);
                thread::sleep(Duration::from_millis(delay * 2));
                wait_until("its end", || {
                    if process.runs() {
                        process.signal(Signal::Term);
                    }
                    !process.runs()
                });
                assert_same(
                    &before,
                    &dump(&host),
                    &format!("{} after {delay}", arguments[0]),
                );
            }
        }
    });
}
