//! Configurations that are no regular files: a director starts from them, is not deaf while it waits for
//! them, and does not read them twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::enter::{in_lab, tunlb};
use crate::lab::{Lab, wait_until};
use crate::process::{Ended, Process, Signal};
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, Director, Site, VIP, succeeded};

const WEB: [&str; 5] = ["web", VIP, "80", "tcp", ""];

#[test]
fn a_director_from_a_fifo_is_not_deaf() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = fifo(lab);
        for signal in [Signal::Term, Signal::Int] {
            let waiting = spawn(&site, &path);
            wait_until("the director to wait for the FIFO", || is_waiting(&waiting));
            let asked = Instant::now();
            let Ended { stderr, .. } = waiting.stop(signal);
            assert!(asked.elapsed() < Duration::from_secs(10), "{stderr}");
        }
        let mut director = spawn(&site, &path);
        fs::write(&path, vip(WEB, &[(BACKENDS[0].1, "")])).expect("the FIFO takes it");
        director.wait_for("forwarding");
        assert_eq!(site.get(), "b1");
        let director = Director(director);
        let mut director = Reloading { director, path };
        assert_not_read_again(&mut director, "a FIFO");
        assert_eq!(site.get(), "b1");
        director.director.stop();
    });
}

/// Signals have no default action for process 1.
#[test]
fn a_director_that_is_process_1_of_a_container_is_not_deaf() {
    in_lab(|lab| {
        let host = lab.node("host");
        let path = fifo(lab);
        let mut command = host.command("unshare");
        command
            .args(["--pid", "--fork", "--kill-child"])
            .arg(tunlb());
        command.args(["run", "-c"]).arg(&path);
        let container = host.spawn("container", command);
        let mut first = String::new();
        wait_until("the director to wait for the FIFO", || {
            let parent = container.id();
            first = host.sh(&format!("pgrep --parent {parent} tunlb || true"));
            let place = fs::read_to_string(format!("/proc/{}/wchan", first.trim()));
            place.is_ok_and(|place| place.contains("partner"))
        });
        let asked = Instant::now();
        host.run(&format!("kill -TERM {first}"));
        let Ended { status, .. } = container.wait();
        assert_eq!(status.code(), Some(128 + 15));
        assert!(asked.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn a_director_from_standard_input_keeps_its_configuration() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let path = lab.file("tunlb.toml", vip(WEB, &[(BACKENDS[0].1, "")]));
        let mut command = site.director.command("sh");
        let script = format!("exec {} run -c - <{}", tunlb().display(), path.display());
        command.args(["-c", &script]);
        let director = Director(site.director.start("run", command, "forwarding"));
        let mut director = Reloading { director, path };
        assert_not_read_again(&mut director, "standard input");
        assert_eq!(site.get(), "b1");
        director.director.stop();
    });
}

/// The regular file of a running director becomes something that never gives a byte, or never ends.
#[test]
fn a_reload_of_what_is_no_file_is_refused() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let config = vip(WEB, &[(BACKENDS[0].1, "")]);
        let mut director = Reloading::start(lab, &site, &config);
        let path = director.path.display().to_string();
        for (make, kind) in [
            (format!("rm {path}; mkfifo {path}"), "a FIFO"),
            (format!("rm {path}; ln -s /dev/zero {path}"), "a device"),
        ] {
            lab.here().sh(&make);
            assert_not_read_again(&mut director, kind);
            assert_eq!(site.get(), "b1");
        }
        lab.here().run(&format!("rm {path}"));
        director.accept(&config);
        let asked = Instant::now();
        let Ended { stderr, .. } = succeeded(director.director.0.stop(Signal::Term));
        assert!(asked.elapsed() < Duration::from_secs(10), "{stderr}");
    });
}

fn assert_not_read_again(director: &mut Reloading, kind: &str) {
    let answer = director.refuse_as_is();
    let words = format!("it is {kind}, which cannot be read again");
    assert!(answer.contains(&words), "no \"{words}\" in: {answer}");
}

fn fifo(lab: &Lab) -> PathBuf {
    let path = lab.file("folder", "").with_file_name("fifo.toml");
    lab.here().run(&format!("mkfifo {}", path.display()));
    path
}

fn spawn(site: &Site, path: &Path) -> Process {
    let mut command = site.director.command(tunlb());
    command.args(["run", "-c"]).arg(path);
    site.director.spawn("run", command)
}

/// Whether a program waits for the other end of a FIFO (`wait_for_partner` of the kernel).
fn is_waiting(process: &Process) -> bool {
    let place = fs::read_to_string(format!("/proc/{}/wchan", process.id()));
    place.is_ok_and(|place| place.contains("partner"))
}
