//! What a director logs: as much as RUST_LOG and `--verbose` ask for.

use crate::enter::{in_lab, tunlb};
use crate::process::Signal;
use crate::site::{BACKENDS, Site, VIP, WEB, succeeded};

/// A datagram that no VIP is for.
const DATAGRAM: &str = "import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hello', (sys.argv[1], 53))";

#[test]
fn the_level_is_that_of_the_flag_else_of_rust_log() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let summary = "forwarding 10.0.0.100:80/tcp to 1 backend, 1 worker";
        let path = "backend 10.0.1.11: by eth0, path MTU 1500";
        let drop = "dropped 33 bytes: no_vip";
        for (log, flag, said, unsaid) in [
            (None, None, summary, path),
            (Some("debug"), None, path, drop),
            (Some("off"), Some("-v"), path, drop),
            (None, Some("--verbose"), path, drop),
            (None, Some("-vv"), drop, "panicked"),
        ] {
            let mut command = site.director.command(tunlb());
            command.args(["run", "--vip", WEB, "--backend", BACKENDS[0].1]);
            command.args(flag).env_remove("RUST_LOG");
            if let Some(level) = log {
                command.env("RUST_LOG", level);
            }
            let mut director = site.director.start("run", command, summary);
            site.client.run_python(DATAGRAM, &[VIP]);
            director.wait_for(said);
            let ended = succeeded(director.stop(Signal::Term));
            assert!(!ended.stderr.contains(unsaid), "{flag:?}: {}", ended.stderr);
        }
    });
}
