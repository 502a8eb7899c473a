//! What the doctor cannot see or use: it says so, and never takes it for healthy.

use tunlb::doctor::{bundle, facts::Facts};
use tunlb::text::shell;

use super::bench::{Bench, Diagnosis, WAY, doctor, examine, forget_sysctl_files};
use super::director::CONFIG;
use crate::enter::{in_lab, in_lab_as_nobody, is_machine, tunlb};
use crate::lab::{Lab, Node};
use crate::site::{DIRECTOR, Site, WEB};

#[test]
fn without_capabilities() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        let unprivileged = || {
            let mut command = bench.backend().command("setpriv");
            command
                .args(["--bounding-set", "-all", "--inh-caps", "-all"])
                .arg(tunlb())
                .args(["doctor", "--json", "--lang", "en"])
                .args(WAY);
            Diagnosis::of(command)
        };
        let blind = unprivileged();
        assert_eq!(blind.status(), "unknown", "{}", blind.complaints());
        for code in ["B13", "B19", "B20", "B22"] {
            assert_eq!(blind.status_of(code), "unknown", "{}", blind.complaints());
        }
        assert!(
            blind.complaints().contains("CAP_NET_ADMIN"),
            "{}",
            blind.complaints()
        );
        // What it can see, it judges.
        bench.backend().set_sysctl("ipv4/conf/all/rp_filter", 1);
        unprivileged().must_be("fail B10");
    });
}

#[test]
fn without_nft() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        // A file that is no program is not found.
        lab.here().sh(
            "for folder in $(echo $PATH:/usr/local/sbin:/usr/sbin:/sbin | tr : ' '); do
                 [ ! -e $folder/nft ] || mount --bind /dev/null $folder/nft
             done",
        );
        let diagnosis = bench.examine();
        assert_eq!(diagnosis.status(), "unknown", "{}", diagnosis.complaints());
        let complaints = diagnosis.complaints();
        assert!(complaints.contains("nft"), "{complaints}");
        assert_eq!(diagnosis.status_of("B19"), "unknown", "{complaints}");
        assert_eq!(diagnosis.status_of("B10"), "pass", "{complaints}");
    });
}

/// In a user namespace, where the machine's root is nobody.
#[test]
fn in_a_user_namespace() {
    in_lab_as_nobody(|lab| {
        assert!(!is_machine(), "still with the machine's root");
        let bench = Bench::new(lab);
        let diagnosis = bench.examine();
        diagnosis.must_be("pass");
        bench.backend().sh("nft add table inet fault
             nft 'add chain inet fault in { type filter hook input priority 0; policy drop; }'");
        let diagnosis = bench.examine();
        diagnosis.must_be("fail B19");
    });
}

/// Names that are a command to a shell, several rules to nft and a pattern to sysctl: the kernel takes them,
/// and what the doctor proposes means the device.
#[test]
fn devices_with_names_of_an_attacker() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        let backend = bench.backend();
        backend.sh("nft add table inet fault
             nft 'add chain inet fault in { type filter hook prerouting priority 0; }'
             nft add rule inet fault in meta iifname != '{ eth0, lo }' fib saddr . iif oif missing drop");
        for name in ["$(>pwned)", "a;b{c}", "-x", "it's"] {
            let device = backend
                .sh("ip -o link show type tun | cut -d: -f2")
                .trim()
                .to_owned();
            backend.sh(&shell::line(&[
                "ip", "link", "set", "dev", &device, "name", name,
            ]));
            assert!(!bench.answers_at_once(), "{name}");
            let diagnosis = bench.examine();
            diagnosis.must_be("fail B13");
            assert!(
                !diagnosis.fix_of("B13").is_empty(),
                "{}",
                diagnosis.complaints()
            );
            bench
                .mend(diagnosis)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(!std::path::Path::new("pwned").exists());
    });
}

#[test]
fn a_bundle_says_the_same_elsewhere() {
    in_lab(|lab| {
        let bench = Bench::new(lab);
        bench.backend().set_sysctl("ipv4/conf/decap0/rp_filter", 2);
        let path = lab.no_file("backend.tar.zst").display().to_string();
        let with_bundle = [&WAY[..], &["--bundle", &path]].concat();
        let here = bench.examine_with(&with_bundle);
        here.must_be("fail B11");
        let elsewhere = examine(&lab.here(), &["--from-bundle", &path]);
        assert_eq!(elsewhere.document, here.document);
    });
}

#[test]
fn bundles_that_are_none() {
    in_lab(|lab| {
        let host = lab.here();
        let whole = bundle::write(
            &Facts {
                schema: 1,
                ..Facts::default()
            },
            &[],
        )
        .unwrap();
        let other = bundle::write(
            &Facts {
                schema: 7,
                ..Facts::default()
            },
            &[],
        )
        .unwrap();
        for (name, bytes, word) in [
            ("empty", &[][..], "not a whole"),
            ("half", &whole[..whole.len() / 2], "not a whole"),
            ("text", b"{\"schema\":1}", "not a whole"),
            ("other", &other, "has schema 7, this program reads schema 1"),
        ] {
            let path = lab
                .file(&format!("{name}.tar.zst"), bytes)
                .display()
                .to_string();
            assert_refused(&host, &["--from-bundle", &path], &[&path, word]);
        }
        let nowhere = "/nowhere/b.tar.zst";
        assert_refused(
            &host,
            &["--from-bundle", nowhere],
            &[nowhere, "No such file"],
        );
    });
}

#[test]
fn arguments_that_are_none() {
    in_lab(|lab| {
        let host = lab.here();
        assert_refused(&host, &["--vip", "10.0.0.100"], &["ADDR:PORT/PROTO"]);
        assert_refused(
            &host,
            &["--vip", WEB, "--only", "B99"],
            &["B99", "--list-checks"],
        );
        assert_refused(
            &host,
            &["--role", "director", "-c", "/nowhere/tunlb.toml"],
            &["/nowhere"],
        );
        assert_refused(&host, &[], &["--vip", "-c FILE"]);
        assert_refused(&host, &["--role", "backend"], &["--vip"]);
    });
}

#[test]
fn both_ends_are_one_diagnosis() {
    in_lab(|lab| {
        forget_sysctl_files(lab);
        let site = Site::by_hand(lab);
        let _director = site.run(&["--vip", WEB, "--backend", "10.0.1.11"]);
        let config = lab.file("tunlb.toml", CONFIG).display().to_string();
        let backend = &site.backends[0].node;
        let of_director = || {
            save(
                lab,
                "director.json",
                &examine(&site.director, &["-c", &config]),
            )
        };
        let with = |peer: &str| examine(backend, &[&WAY[..], &["--peer", peer]].concat());

        let both = with(&of_director());
        both.must_be("pass");
        let summary = both.document["verdict"]["summary"].to_string();
        assert!(
            summary.contains("B23"),
            "the network between is left: {summary}"
        );

        backend.set_sysctl("ipv4/conf/all/rp_filter", 1);
        assert_eq!(with(&of_director()).verdict(), "fail B10");
        site.director.set_sysctl("ipv4/ip_forward", 0);
        let merged = with(&of_director());
        assert_eq!(
            merged.verdict(),
            "fail D35",
            "the director's packets come first"
        );
        assert_eq!(merged.status_of("B10"), "fail");

        let own = save(lab, "backend.json", &examine(backend, &WAY));
        let same_end = [&WAY[..], &["--peer", &own]].concat();
        assert_refused(backend, &same_end, &["same end", &own]);
        let text = lab
            .file("none.json", "{\"schema\":7}")
            .display()
            .to_string();
        let other_schema = [&WAY[..], &["--peer", &text]].concat();
        assert_refused(backend, &other_schema, &[&text, "schema"]);
        let auto = examine(
            &site.director,
            &["-c", &config, "--director", DIRECTOR, "--peer", &own],
        );
        assert_eq!(auto.verdict(), "fail D35");
    });
}

fn save(lab: &Lab, name: &str, diagnosis: &Diagnosis) -> String {
    let path = lab.file(name, diagnosis.document.to_string());
    path.display().to_string()
}

/// No answer: exit code 2, nothing on stdout, every word on stderr.
fn assert_refused(host: &Node, arguments: &[&str], words: &[&str]) {
    let output = doctor(host, arguments)
        .output()
        .expect("nsenter (util-linux)");
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert_eq!(
        output.status.code(),
        Some(2),
        "{arguments:?}: {stdout}{stderr}"
    );
    assert_eq!(stdout, "", "{arguments:?}");
    for word in words {
        assert!(stderr.contains(word), "no \"{word}\" in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}
