//! Two workers: two queues of the TUN, a thread each, and the kernel spreads flows over them.

use std::fs;

use crate::enter::in_lab;
use crate::lab::wait_until;
use crate::site::{BACKENDS, Site, VIP};

#[test]
fn two_workers_share_the_flows() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let mut config = format!(
            "[director]\nworkers = 2\n[[vip]]\nname = \"web\"\naddress = \"{VIP}\"\nport = 80\n\
             protocol = \"tcp\"\n"
        );
        for (_, address) in BACKENDS {
            config += &format!("[[vip.backend]]\naddress = \"{address}\"\n");
        }
        let path = lab.file("tunlb.toml", config);
        let director = site.run(&["-c", &path.display().to_string()]);
        let mut before = Vec::new();
        wait_until("two worker threads", || {
            before = wakeups_of_workers(director.0.id());
            before.len() == 2
        });
        let queues = &site.director.link("tunlb0")["linkinfo"]["info_data"]["numqueues"];
        assert_eq!(queues.as_u64(), Some(2), "queues of tunlb0");

        site.get_in_parallel(200, 20_000);
        let after = wakeups_of_workers(director.0.id());
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(before, after)| *after > before + 10),
            "a worker saw no packets: how often each has slept, before {before:?}, after {after:?}"
        );
        let sent = site.sent_by_client();
        site.wait_until_read(sent);
        let totals = director.stop();
        assert_eq!(
            (totals.sent().packets, totals.dropped()),
            (sent, 0),
            "{totals:?}"
        );
        assert_eq!(totals.busy("web"), 3, "{totals:?}");
    });
}

/// How often each worker of a director has gone to sleep, which it does when its queue is empty.
fn wakeups_of_workers(director: u32) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{director}/task")).expect("the director's threads");
    let mut wakeups = Vec::new();
    for task in tasks {
        let path = task.expect("a thread").path().join("status");
        let status = fs::read_to_string(path).expect("the state of a thread");
        let value = |key: &str| {
            let mut lines = status.lines();
            lines
                .find_map(|line| line.strip_prefix(key))
                .map(str::trim)
                .unwrap_or_default()
                .to_owned()
        };
        if value("Name:").starts_with("tunlb-worker") {
            wakeups.push(value("voluntary_ctxt_switches:").parse().expect("a count"));
        }
    }
    wakeups
}
