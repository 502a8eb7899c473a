//! What an operator sees of a running director, and changes of it: the commands against the real one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::enter::{in_lab, tunlb};
use crate::lab::{Node, wait_until};
use crate::process::Signal;
use crate::reloading::{Reloading, vip};
use crate::site::{BACKENDS, Site, VIP, succeeded};
use crate::streams::{Streams, assert_no_resets, echo_streams};

const B1: &str = BACKENDS[0].1;
const B2: &str = BACKENDS[1].1;
const B3: &str = BACKENDS[2].1;
const ALL: [(&str, &str); 3] = [(B1, ""), (B2, ""), (B3, "")];
const WEB: [&str; 5] = ["web", VIP, "\"any\"", "tcp", ""];

/// A terminal for the command that its arguments are; types Ctrl-C once a VIP is shown. Prints the exit code
/// and, escaped, the end of what the terminal got.
const TERMINAL: &str = r#"
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.environ["TERM"] = "xterm"
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
typed = False
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    seen += piece
    if not typed and b"web" in seen:
        typed = True
        os.write(terminal, b"\x03")
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, ascii(seen[:20].decode()), ascii(seen[-20:].decode(errors="replace")))
"#;

/// Runs a command of tunlb on a host.
fn ask(node: &Node, arguments: &[&str]) -> Output {
    let mut command = node.command(tunlb());
    command.env("LC_ALL", "C.UTF-8").args(arguments);
    command.output().expect("tunlb")
}

/// What it prints; it must have succeeded.
fn said(node: &Node, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = ended(node, arguments);
    assert_eq!(code, 0, "{arguments:?}:\n{stdout}{stderr}");
    stdout
}

/// Exit code, standard output and standard error.
fn ended(node: &Node, arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = ask(node, arguments);
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (status.code().expect("an exit code"), stdout, stderr)
}

fn json(node: &Node, arguments: &[&str]) -> Value {
    serde_json::from_str(&said(node, arguments)).expect("JSON")
}

/// What `status --json` says of a backend of the first VIP.
fn backend(site: &Site, address: &str) -> Value {
    let status = json(&site.director, &["status", "--json"]);
    let backends = status["vips"][0]["backends"].as_array().expect("backends");
    let mut found = backends
        .iter()
        .filter(|backend| backend["address"] == address);
    found.next().cloned().unwrap_or_default()
}

#[test]
fn status_shows_what_the_director_does() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(WEB, &ALL));
        site.get_in_parallel(60, 20_000);
        let sent = site.sent_by_client();
        site.wait_until_read(sent);

        let status = json(&site.director, &["status", "--json", "--vip", "web"]);
        assert_eq!(status["schema"], 1);
        assert_eq!(status["vips"][0]["traffic"]["packets"], sent, "{status}");
        let file = director.path.display().to_string();
        assert_eq!(status["director"]["config"]["file"], file);
        let text = said(&site.director, &["status"]);
        assert!(
            text.contains(&format!(" · file {file} · ready\n")),
            "{text}"
        );
        assert!(text.contains(&format!("\nTCP  web {VIP}:any ")), "{text}");
        for (_, address) in BACKENDS {
            assert!(text.contains(&format!("\n  -> {address} ")), "{text}");
        }
        let stats = said(&site.director, &["status", "--stats"]);
        assert!(stats.starts_with("Prot VIP"), "{stats}");
        let web = stats.lines().nth(1).unwrap_or_default();
        let packets = sent.to_string();
        assert_eq!(
            web.split_whitespace().nth(4),
            Some(packets.as_str()),
            "{stats}"
        );
        said(&site.director, &["status", "--rate"]);
        assert_eq!(
            said(&site.director, &["status", "--problems"]),
            "no problem\n"
        );

        let (code, stdout, stderr) = ended(&site.director, &["status", "--vip", "wbe"]);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains("wbe"), "{stderr}");
        director.director.stop();
    });
}

#[test]
fn without_a_director_the_commands_say_so() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(WEB, &ALL));
        // Another network namespace has a director of its own, or none.
        for arguments in [
            &["status"][..],
            &["reload"],
            &["diff"],
            &["events"],
            &["flows"],
            &["backend", "drain", "web", B1],
            &["capture", "stop"],
        ] {
            let (code, stdout, stderr) = ended(&site.client, arguments);
            assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
            assert!(
                stderr.starts_with("tunlb: no director answers at /"),
                "{stderr}"
            );
            assert!(stderr.contains("--api PATH"), "{stderr}");
        }
        director.director.stop();
        assert_eq!(ended(&site.director, &["status"]).0, 2);
    });
}

#[test]
fn a_backend_is_drained_and_its_last_flow_waited_for() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let _services = site.backends.each_ref().map(echo_streams);
        let timeouts = "[director.timeouts]\nclosing = \"2s\"\n";
        let config = timeouts.to_owned() + &vip(WEB, &ALL);
        let director = Reloading::start(lab, &site, &config);
        let streams = Streams::open(&site.client, 30, 10_000);
        assert!(streams.of("b1") > 0, "{:?}", streams.backends);

        let drain = ["backend", "drain", "web", B1, "--wait", "--deadline", "1s"];
        let (code, stdout, stderr) = ended(&site.director, &drain);
        assert_eq!(code, 1, "{stdout}{stderr}");
        assert!(stdout.contains("takes no new flows"), "{stdout}");
        assert!(stderr.contains(" left after 1s"), "{stderr}");
        streams.wait_for_round();
        let status = said(&site.director, &["status"]);
        assert!(status.contains(" + 1 override "), "{status}");
        assert!(status.contains("draining, by uid 0"), "{status}");
        let answers = site.get_in_parallel(60, 20_000);
        assert!(answers.values().all(|name| name != "b1"), "{answers:?}");

        streams.finish();
        assert_no_resets(site.nodes());
        // Flows that were closed are remembered for a while.
        let drain = ["backend", "drain", "web", B1, "--wait", "--deadline", "30s"];
        let (code, _, stderr) = ended(&site.director, &drain);
        assert_eq!(code, 0, "{stderr}");
        assert!(
            stderr.contains("backend 10.0.1.11: drained after "),
            "{stderr}"
        );
        assert_eq!(backend(&site, B1)["flows"], 0);
        director.director.stop();
    });
}

#[test]
fn an_override_is_shown_everywhere_and_ends() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(WEB, &ALL));
        assert_eq!(said(&site.director, &["diff"]), "no difference\n");

        let set = [
            "backend", "set", "web", B2, "--weight", "7", "--reason", "a try",
        ];
        let text = said(&site.director, &set);
        assert!(text.contains("takes new flows, w 7 (file: 1)"), "{text}");
        let (code, text, _) = ended(&site.director, &["diff"]);
        assert_eq!(code, 1, "{text}");
        assert!(
            text.contains("backend 10.0.1.12: weight 7 by uid 0"),
            "{text}"
        );
        let (code, text, _) = ended(&site.director, &["diff", "--json"]);
        let diff: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (code, &diff["overrides"][0]["weight"]),
            (1, &Value::from(7))
        );

        let clear = ["backend", "set", "web", B2, "--clear"];
        assert!(said(&site.director, &clear).contains(", w 1\n"));
        assert_eq!(said(&site.director, &["diff"]), "no difference\n");
        let (code, _, stderr) = ended(&site.director, &clear);
        assert!(code > 0 && stderr.contains("no override"), "{stderr}");

        let down = [
            "backend", "set", "web", B2, "--health", "down", "--for", "1s",
        ];
        said(&site.director, &down);
        wait_until("the end of the override", || {
            backend(&site, B2)["override"].is_null()
        });
        assert_eq!(backend(&site, B2)["takes"], "new");

        said(&site.director, &["backend", "remove", "web", B3]);
        assert!(backend(&site, B3).is_null());
        let (code, _, stderr) = ended(&site.director, &["backend", "remove", "web", B3]);
        assert_eq!(code, 2, "{stderr}");
        said(
            &site.director,
            &["backend", "add", "web", B3, "--weight", "3"],
        );
        assert_eq!(backend(&site, B3)["weight"]["effective"], 3);
        let (code, _, stderr) = ended(&site.director, &["backend", "add", "web", B3]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("exists already"), "{stderr}");
        director.director.stop();
    });
}

#[test]
fn a_reload_says_what_changes_and_what_is_wrong() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(WEB, &[(B1, ""), (B2, "")]));
        assert_eq!(said(&site.director, &["reload"]), "nothing changed\n");
        fs::write(&director.path, vip(WEB, &ALL)).expect("the director's file");
        let added = "vip web: backend 10.0.2.13: added\n";
        assert_eq!(said(&site.director, &["reload", "--dry-run"]), added);
        assert!(backend(&site, B3).is_null(), "nothing is changed");
        let (code, text, _) = ended(&site.director, &["diff"]);
        assert_eq!(
            (code, text),
            (1, format!("A reload would change:\n  {added}"))
        );
        assert_eq!(said(&site.director, &["reload"]), added);
        assert_eq!(backend(&site, B3)["takes"], "new");

        let wrong = format!("[director]\nworkrs = 2\nring_size = 4\n{}", vip(WEB, &ALL));
        fs::write(&director.path, wrong).expect("the director's file");
        for arguments in [&["reload"][..], &["reload", "--dry-run"]] {
            let (code, stdout, stderr) = ended(&site.director, arguments);
            assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
            assert!(stderr.contains("director.workrs"), "{stderr}");
            assert!(stderr.contains("director.ring_size = 4"), "{stderr}");
        }
        let (code, text, _) = ended(&site.director, &["diff"]);
        assert_eq!(code, 1);
        assert!(text.starts_with("A reload would be refused:\n"), "{text}");
        let (code, text, _) = ended(&site.director, &["status", "--problems"]);
        assert_eq!(code, 1);
        assert!(text.contains("was refused: "), "{text}");
        director.director.stop();
    });
}

/// As an operator writes it: comments, spaces, an order of its own.
fn commented() -> String {
    format!(
        "# Berlin\n[[vip]]\nname = \"web\"  # the shop\naddress = \"{VIP}\"\nport = \"any\"\n\n\
         # rack 1\n[[vip.backend]]\naddress = \"{B1}\"\nweight   = 100 # big\n\n\
         # rack 2\n[[vip.backend]]\naddress = \"{B2}\"\n# the end\n"
    )
}

#[test]
fn a_change_goes_into_the_file_and_comments_stay() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &commented());
        fs::set_permissions(&director.path, fs::Permissions::from_mode(0o640)).expect("a mode");
        let read = || fs::read_to_string(&director.path).expect("the director's file");
        let persist = |arguments: &[&str]| {
            let all = [&["backend"], arguments, &["--persist"]].concat();
            said(&site.director, &all)
        };

        persist(&["set", "web", B1, "--weight", "50"]);
        let expected = commented().replace("= 100 # big", "= 50 # big");
        assert_eq!(read(), expected);
        let of_b1 = backend(&site, B1);
        assert_eq!(of_b1["weight"]["configured"], 50, "{of_b1}");
        assert!(of_b1["override"].is_null(), "{of_b1}");

        persist(&["drain", "web", B2]);
        let line = format!("address = \"{B2}\"\n");
        let expected = expected.replace(&line, &format!("{line}state = \"draining\"\n"));
        assert_eq!(read(), expected);
        assert_eq!(backend(&site, B2)["state"]["configured"], "draining");

        persist(&["add", "web", B3]);
        assert!(backend(&site, B3)["override"].is_null());
        persist(&["remove", "web", B3]);
        assert_eq!(read(), expected);
        assert_eq!(said(&site.director, &["diff"]), "no difference\n");
        let mode = fs::metadata(&director.path)
            .expect("metadata")
            .permissions();
        assert_eq!(mode.mode() & 0o7777, 0o640);

        // What others wrote and the director did not read is not read along.
        fs::write(&director.path, expected.replace("= 50", "= 60")).expect("the file");
        let set = ["backend", "set", "web", B2, "--weight", "9", "--persist"];
        let (code, _, stderr) = ended(&site.director, &set);
        assert_eq!(code, 2, "{stderr}");
        assert!(
            stderr.contains("nothing was changed: the file has changes"),
            "{stderr}"
        );
        assert!(backend(&site, B2)["override"].is_null());
        director.director.stop();
    });
}

#[test]
fn a_file_that_cannot_be_written_is_left_alone() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let folder = lab.no_file("small");
        fs::create_dir(&folder).expect("a folder");
        lab.here().run(&format!(
            "mount -t tmpfs -o size=64k tmpfs {}",
            folder.display()
        ));
        let path = folder.join("tunlb.toml");
        fs::write(&path, commented()).expect("a file");
        let director = site.run(&["-c", &path.display().to_string()]);
        fs::write(folder.join("filler"), vec![0; 60 << 10]).expect("a file");
        let set = ["backend", "set", "web", B1, "--weight", "50", "--persist"];
        let refused = |why: &str| {
            let (code, stdout, stderr) = ended(&site.director, &set);
            assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
            assert!(
                stderr.starts_with("tunlb: nothing was changed: "),
                "{stderr}"
            );
            assert!(stderr.contains(why), "{stderr}");
            assert_eq!(fs::read_to_string(&path).expect("the file"), commented());
            assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 2);
            assert_eq!(backend(&site, B1)["weight"]["effective"], 100);
        };
        refused("No space left on device");
        let remount = |options: &str| {
            let folder = folder.display();
            lab.here()
                .run(&format!("mount -o remount,{options} {folder}"));
        };
        remount("ro");
        refused("Read-only file system");
        remount("rw,size=1m");
        said(&site.director, &set);
        assert_eq!(backend(&site, B1)["weight"]["configured"], 50);
        director.stop();
    });
}

#[test]
fn events_are_followed_and_run_a_command() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(WEB, &ALL));
        let seen = lab.no_file("seen");
        let script = format!(
            "cat >>{0}; echo \"$TUNLB_EVENT_KIND $TUNLB_EVENT_VIP $TUNLB_EVENT_BACKEND $TUNLB_EVENT_UID\" >>{0}",
            seen.display()
        );
        let mut command = site.director.command(tunlb());
        command.args(["events", "--since", "0", "--exec", &script]);
        let events = site.director.start("events", command, " started: ");
        said(
            &site.director,
            &["backend", "set", "web", B1, "--weight", "5"],
        );
        wait_until("the event", || {
            events.stdout().contains("override_set: ") && seen.exists()
        });
        let told = "override_set web 10.0.1.11 0\n";
        wait_until("the command", || {
            fs::read_to_string(&seen).is_ok_and(|text| text.contains(told))
        });
        let lines = events.stdout();
        let line = lines.lines().last().unwrap_or_default();
        assert!(line.ends_with("by uid 0 (root)"), "{lines}");

        director.director.stop();
        let ended = events.wait();
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    });
}

#[test]
fn a_terminal_that_watched_is_as_before() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(WEB, &ALL));
        let program = tunlb().display().to_string();
        let watch = ["status", "--watch", "60"];
        let arguments = [&[program.as_str()], &watch[..]].concat();
        let asked = Instant::now();
        let output = site.director.run_python(TERMINAL, &arguments);
        assert!(
            asked.elapsed() < Duration::from_secs(30),
            "Ctrl-C waits for nothing"
        );
        let words = r"0 '\x1b[?1049h\x1b[?25l";
        assert!(output.starts_with(words), "{output}");
        assert!(
            output.trim_end().ends_with(r"\x1b[?25h\x1b[?1049l'"),
            "{output}"
        );

        // Into a file: one table after another, and a signal ends it just as well.
        let mut command = site.director.command(tunlb());
        command.args(["status", "--watch", "0.1"]);
        let watch = site.director.spawn("watch", command);
        wait_until("three tables", || {
            watch.stdout().matches("Prot VIP").count() >= 3
        });
        let ended = succeeded(watch.stop(Signal::Int));
        assert!(!ended.stdout.contains('\u{1b}'), "{}", ended.stdout);
        director.director.stop();
    });
}

/// What a new flow would get is what it then gets.
#[test]
fn the_running_director_explains() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(WEB, &ALL));
        said(
            &site.director,
            &["backend", "set", "web", B1, "--state", "disabled"],
        );
        for (port, name) in site.get_in_parallel(20, 20_000) {
            let flow = [format!("10.0.9.2:{port}"), format!("{VIP}:80/tcp")];
            let arguments = ["explain", "--running", "--json", &flow[0], &flow[1]];
            let explained = json(&site.director, &arguments);
            let address = BACKENDS.iter().find(|(known, _)| *known == name);
            assert_eq!(
                explained["backend"],
                address.expect("a backend").1,
                "{port}"
            );
            let text = said(
                &site.director,
                &["explain", "--running", &flow[0], &flow[1]],
            );
            assert!(text.contains(address.expect("a backend").1), "{text}");
        }
        director.director.stop();
    });
}

#[test]
fn flows_are_listed() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(WEB, &ALL));
        let answers = site.get_in_parallel(60, 20_000);
        site.wait_until_read(site.sent_by_client());
        let all = json(&site.director, &["flows", "--json"]);
        let flows = all["flows"].as_array().expect("flows");
        assert_eq!((flows.len(), &all["next_cursor"]), (60, &Value::Null));
        for (port, name) in &answers {
            let source = format!("10.0.9.2:{port}");
            let mut of_port = flows.iter().filter(|flow| flow["source"] == source);
            let flow = of_port.next().expect("a flow of each port");
            let address = BACKENDS.iter().find(|(known, _)| known == name);
            assert_eq!(flow["backend"], address.expect("a backend").1);
            assert_eq!(
                (&flow["vip"], &flow["protocol"]),
                (&"web".into(), &"tcp".into())
            );
        }
        let of_b1 = answers.values().filter(|name| *name == "b1").count();
        let text = said(&site.director, &["flows", "--backend", B1]);
        assert_eq!(text.lines().count(), 1 + of_b1, "{text}");
        let (code, text, stderr) = ended(&site.director, &["flows", "--limit", "7"]);
        assert_eq!((code, text.lines().count()), (0, 8), "{text}");
        assert!(stderr.contains("there are more"), "{stderr}");
        let (code, _, stderr) = ended(&site.director, &["flows", "--vip", "wbe"]);
        assert!(code == 2 && stderr.contains("wbe"), "{stderr}");
        director.director.stop();
    });
}

#[test]
fn a_capture_begins_and_ends_without_a_restart() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = Reloading::start(lab, &site, &vip(WEB, &ALL));
        let file = lab.no_file("web.pcapng");
        let path = file.display().to_string();
        let start = [
            "capture", "start", &path, "--filter", "vip=web", "--size", "1MB",
        ];
        said(&site.director, &start);
        site.get();
        site.wait_until_read(site.sent_by_client());
        let (code, _, stderr) = ended(&site.director, &start);
        assert!(code > 0 && stderr.contains(&path), "{stderr}");
        let text = said(&site.director, &["capture", "stop"]);
        let packets = text.strip_prefix(&format!("{path}: "));
        let packets = packets.and_then(|text| text.split_once(" packets captured, "));
        let packets: u64 = packets.expect("a number").0.parse().expect("a number");
        assert_eq!(
            packets,
            2 * site.sent_by_client(),
            "each one, and its outer packet"
        );
        assert!(fs::metadata(&file).expect("the capture").len() > 500);
        let (code, _, stderr) = ended(&site.director, &["capture", "stop"]);
        assert!(code > 0, "{stderr}");

        let wrong = [
            "capture",
            "start",
            &format!("{path}.2"),
            "--filter",
            "vip=wbe",
        ];
        let (code, _, stderr) = ended(&site.director, &wrong);
        assert!(code > 0 && stderr.contains("wbe"), "{stderr}");
        director.director.stop();
    });
}
