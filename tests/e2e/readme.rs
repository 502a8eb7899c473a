//! The README's section "Use it": its commands, word for word, on hosts with its addresses.

use std::path::Path;
use std::process::Command;

use crate::enter::tunlb;

/// The script makes namespaces of its own, and has a deadline for all that it waits for.
#[test]
fn its_commands_do_what_it_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("netns-scripts/readme.sh");
    let output = Command::new(script).env("TUNLB", tunlb()).output();
    let output = output.expect("netns-scripts/readme.sh");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let last = stdout.lines().last().unwrap_or_default();
    assert!(
        output.status.success() && last.starts_with("OK: "),
        "{}\n{stdout}{stderr}",
        output.status
    );
}
