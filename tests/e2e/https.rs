//! Probes by TLS, with certificates of an authority of the lab's own.

use std::path::Path;

use crate::enter::in_lab;
use crate::health::{ALL, odd_service, probed, said, status};
use crate::lab::{Lab, wait_until};
use crate::process::Process;
use crate::reloading::{Reloading, vip};
use crate::site::{Site, VIP};

/// Cryptography takes its time in a build that is not optimized.
const UNHURRIED: &str = "interval = \"1s\"\ntimeout = \"10s\"\nrise = 2\nfall = 3";

const TLS_HTTPD: &str = include_str!("tools/tls_httpd.py");

/// Makes an authority, and certificates of it for a name and so many days: good.pem, name.pem, old.pem and their keys.
const AUTHORITY: &str = r#"
set -e
curve='ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 -newkey $curve -keyout ca.key -out ca.pem -days 3650 -subj /CN=lab 2>/dev/null
certify() {
  openssl req -newkey $curve -keyout "$1.key" -out "$1.csr" -subj "/CN=$1" 2>/dev/null
  printf 'subjectAltName=DNS:%s\nbasicConstraints=CA:FALSE\n' "$2" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -days "$3" -extfile "$1.ext" -out "$1.pem" 2>/dev/null
}
certify good www.example.net 100
certify name www.example.org 100
certify old www.example.net 0
"#;

/// An HTTPS server on a port of the VIP, with that certificate.
fn serve(
    site: &Site,
    folder: &Path,
    (backend, port): (usize, &str),
    certificate: &[&str],
) -> Process {
    let node = &site.backends[backend].node;
    let [name, rest @ ..] = certificate else {
        panic!("a certificate");
    };
    let path = |kind: &str| folder.join(format!("{name}.{kind}")).display().to_string();
    let (pem, key) = (path("pem"), path("key"));
    let mut arguments = vec![node.name(), VIP, port, &*pem, &*key];
    arguments.extend(rest);
    node.start(
        &format!("tls-{}-{port}", node.name()),
        node.python(TLS_HTTPD, &arguments),
        "listening",
    )
}

/// Makes the certificates; the folder that they are in.
fn certify(lab: &Lab, site: &Site) -> std::path::PathBuf {
    let script = lab.file("authority.sh", AUTHORITY);
    let folder = script.parent().expect("a folder").to_path_buf();
    site.director
        .sh(&format!("cd {} && sh authority.sh", folder.display()));
    folder
}

#[test]
fn certificates_are_judged_where_the_operator_wants_it() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let folder = certify(lab, &site);
        let _servers = [
            serve(&site, &folder, (0, "443"), &["good"]),
            serve(&site, &folder, (1, "443"), &["name", "1.2"]),
            serve(&site, &folder, (2, "443"), &["old"]),
        ];
        let authority = folder.join("ca.pem").display().to_string();
        let web = |name: &str, port: &str, verify: &str| {
            let section = format!(
                "[vip.health]\nkind = \"https\"\nport = 443\nhost = \"www.example.net\"\nbody = \"b\"\n\
                 verify = \"{verify}\"\n{UNHURRIED}\n"
            );
            vip([name, VIP, port, "tcp", &section], &ALL)
        };
        let config = web("any", "5001", "none")
            + &web("ours", "443", &authority)
            + &web("system", "5002", "system");
        let director = Reloading::start(lab, &site, &config);
        said(
            &director,
            "vip ours: backend 10.0.1.12: unhealthy: certificate_name",
        );
        said(
            &director,
            "vip ours: backend 10.0.2.13: unhealthy: certificate_expired",
        );
        said(
            &director,
            "vip system: backend 10.0.1.11: unhealthy: certificate_untrusted",
        );
        let health = |vip: usize, backend: usize| {
            status(&site.director)["vips"][vip]["backends"][backend]["health"].clone()
        };
        wait_until("results", || health(1, 0)["status"] == "healthy");
        for backend in 0..3 {
            wait_until("a result", || health(0, backend)["status"] == "healthy");
        }
        probed(&site, 100);
        let log = director.log();
        assert!(!log.contains("vip any: backend"), "{log}");
        assert!(!log.contains("vip ours: backend 10.0.1.11"), "{log}");
        let expires = health(1, 0)["certificate_expires"].clone();
        let expected = site.director.sh(&format!(
            "date -u -d \"$(openssl x509 -in {}/good.pem -noout -enddate | cut -d= -f2)\" +%Y-%m-%dT%H:%M:%S",
            folder.display()
        ));
        let expires = expires.as_str().expect("a time").to_owned();
        assert!(expires.starts_with(expected.trim()), "{expires} {expected}");
        director.director.stop();
    });
}

#[test]
fn what_speaks_no_tls_or_ends_it_fails() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _servers = [
            odd_service(&site, 0, "alert"),
            odd_service(&site, 1, "garbage"),
            odd_service(&site, 2, "hello"),
        ];
        let section = format!("[vip.health]\nkind = \"https\"\nport = 81\n{UNHURRIED}\n");
        let director =
            Reloading::start(lab, &site, &vip(["web", VIP, "80", "tcp", &section], &ALL));
        said(&director, "backend 10.0.1.11: unhealthy: tls_failed");
        said(&director, "backend 10.0.1.12: unhealthy: bad_answer");
        said(&director, "backend 10.0.2.13: unhealthy: ");
        director.director.stop();
    });
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_is_refused() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let section =
            format!("[vip.health]\nkind = \"https\"\nverify = \"none\"\nport = 81\n{UNHURRIED}\n");
        let config = |section: &str| vip(["web", VIP, "80", "tcp", section], &ALL);
        let mut director = Reloading::start(lab, &site, &config(&section));
        let refused = director.refuse(&config(&section.replace("none", "/nowhere/ca.pem")));
        assert!(
            refused.contains("vip web: health.verify: cannot read /nowhere/ca.pem"),
            "{refused}"
        );
        director.director.stop();
    });
}
