//! For tests that change the machine: runs them in a network namespace of their own.

use std::process::Command;

/// What the test keeps under /run, such as an undo journal, is its own.
const OWN_RUN: &str = r#"mount -t tmpfs -o mode=0755 tmpfs /run && exec "$@""#;

/// Runs the ignored test `name` (its whole path) as root of new user and network namespaces.
pub(crate) fn in_namespace(name: &str) {
    // In two steps: files of /proc/net are this root's only where the user namespace was mapped
    // when the network namespace was made.
    unshared(name, &["--user", "--map-root-user", "unshare"]);
}

/// Runs the ignored test `name` (its whole path) as root of the machine in a new network namespace, for what
/// no user namespace allows, such as BPF.
#[cfg(feature = "xdp")]
pub(crate) fn in_namespace_of_root(name: &str) {
    assert_eq!(
        crate::io::sys::effective_user(),
        0,
        "{name} loads BPF programs, which only root of the first user namespace may: run the tests as root"
    );
    unshared(name, &[]);
}

fn unshared(name: &str, user: &[&str]) {
    // Debian has some of what tests run where the PATH of a user does not look.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/local/sbin:/usr/sbin:/sbin";
    // And a user may not lock the file by which root's legacy iptables keep apart.
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .env("PATH", path)
        .env("XTABLES_LOCKFILE", folder.path().join("xtables.lock"))
        .args(user)
        .args(["--net", "--mount", "--"])
        .args(["sh", "-c", OWN_RUN, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", name])
        .output()
        .expect("unshare(1) of util-linux is needed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} in a user and network namespace (allow them: sysctl -w kernel.unprivileged_userns_clone=1, \
         or run as root; /dev/net/tun must be open to all: chmod 666 /dev/net/tun): {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
