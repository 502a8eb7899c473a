//! What a user may write into the flags of `tunlb decap`, and what it answers.

use crate::enter::{in_lab, tunlb};

#[test]
fn flags_that_cannot_be_say_what_to_write() {
    in_lab(|lab| {
        let host = lab.here();
        for (arguments, words) in [
            (
                &["--vip", "203.0.113.10/32"][..],
                "only the address is given here: 203.0.113.10",
            ),
            (
                &["--vip", "[2001:db8::1]"],
                "only the address is given here: 2001:db8::1",
            ),
            (
                &["--vip", "203.0.113.10:80/tcp"],
                "given here: 203.0.113.10",
            ),
            (&["--vip", "www.example.org"], "names are not looked up"),
            (
                &["--vip", "10.0.0.1", "--gue", "0"],
                "not a UDP port (1 to 65535) such as 6080",
            ),
            (
                &["--vip", "10.0.0.1", "--director", "lb.example.org"],
                "such as 10.0.1.2 or 10.0.1.0/24",
            ),
            (
                &["--vip", "10.0.0.1", "--director", "10.0.0.0/33"],
                "at most 32",
            ),
            (&["--vip", "10.0.0.1", "--vip", "10.0.0.1"], "given twice"),
            (
                &["--vip", "10.0.0.1", "--tun", "a-name-too-long-"],
                "1 to 15 bytes",
            ),
            (
                &["--vip", "10.0.0.1", "--tun", "all"],
                "choose one such as decap0",
            ),
        ] {
            let mut command = host.command(tunlb());
            command.arg("decap").args(arguments);
            let ended = host.spawn("decap", command).wait();
            assert_eq!(ended.status.code(), Some(2), "{ended:?}");
            assert!(
                ended.stderr.contains(words),
                "no \"{words}\" in: {}",
                ended.stderr
            );
        }
        let mut command = host.command(tunlb());
        command.args(["decap", "--help"]);
        let help = host.spawn("help", command).wait().stdout;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            help.contains("Without it tunnel packets are taken from any source"),
            "{help}"
        );
    });
}
