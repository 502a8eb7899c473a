//! Rows 41 and 42: the VIP in the clients' own network.

use super::bench::{doctor, examine, forget_sysctl_files};
use crate::enter::in_lab;
use crate::lab::Node;
use crate::leftovers::{assert_same, dump};
use crate::neighbour::{FlatLan, VIPS, mac};

/// Of both families, as `tunlb run` without `--setup` leaves the director.
#[test]
fn a_vip_that_nothing_answers_for() {
    in_lab(|lab| {
        forget_sysctl_files(lab);
        let lan = FlatLan::new(lab);
        lan.forward();
        let director = lan.run(lab, "", &[]);
        let file = lab.file("x", "").with_file_name("tunlb.toml");
        let config = file.display().to_string();
        let say = |more: &[&str]| {
            let arguments = ["--role", "director", "-c", &config];
            examine(&lan.director, &[&arguments, more].concat())
        };
        let found = say(&[]);
        found.must_be("fail D41");
        say(&["--client", "10.0.0.1"]).must_be("fail D41");
        say(&["--client", "192.0.2.7"]).must_be("warn D41");
        assert_eq!(say(&["--client", "2001:db8::1"]).status(), "fail");

        let before = dump(&lan.director);
        let undo = apply(&lan.director, &config);
        assert!(VIPS.iter().all(|vip| lan.is_answered(vip)));
        say(&[]).must_be("pass");
        lan.director.run(&undo);
        assert_same(&before, &dump(&lan.director), "the undo script");
        assert!(!VIPS.iter().any(|vip| lan.is_answered(vip)));
        drop(director);

        let _director = lan.run(lab, "", &["--setup"]);
        say(&[]).must_be("pass");
    });
}

/// Fixes everything; returns the undo script.
fn apply(director: &Node, config: &str) -> String {
    let undo = "/dev/shm/neighbour.undo";
    let arguments = ["-c", config, "--role", "director", "--undo-file", undo];
    let mut command = doctor(director, &arguments);
    command.args(["--fix", "--apply", "--yes"]);
    let output = command.output().expect("nsenter (util-linux)");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{said}");
    undo.to_owned()
}

#[test]
fn a_vip_that_another_machine_has() {
    in_lab(|lab| {
        forget_sysctl_files(lab);
        let lan = FlatLan::new(lab);
        let _director = lan.run(lab, "", &["--setup"]);
        let file = lab.file("x", "").with_file_name("tunlb.toml");
        let config = file.display().to_string();
        let say = || examine(&lan.director, &["--role", "director", "-c", &config]);
        say().must_be("pass");
        for vip in VIPS {
            lan.other.run(
                &format!("ip addr add {vip}/64 dev eth0 nodad")
                    .replace("10.0.0.100/64", "10.0.0.100/24"),
            );
            let found = say();
            found.must_be("fail D42");
            let complaints = found.complaints();
            assert!(complaints.contains(&mac(&lan.other)), "{complaints}");
            assert!(complaints.contains(vip), "{complaints}");
            lan.other.sh(
                "ip addr flush dev eth0 to 10.0.0.100; ip addr flush dev eth0 to 2001:db8::100",
            );
        }
        say().must_be("pass");
    });
}
