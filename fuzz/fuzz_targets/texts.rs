//! Any text as what the kernel's files and other programs say: what is no line of theirs is left out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb::decap::Arguments;
use tunlb::doctor::gather::texts;
use tunlb::io::netlink::SocketProtocol;
use tunlb::io::sockets;

fuzz_target!(|text: &str| {
    let (head, tail) = text.split_once("\n\n").unwrap_or((text, ""));
    let counters = texts::counters(head, tail);
    assert!(counters.len() <= text.len());
    for setting in texts::sysctl_settings("/etc/sysctl.d/x.conf", text) {
        assert!(setting.line >= 1 && setting.line <= text.lines().count());
        assert!(!setting.name.contains('\n') && !setting.value.contains('\n'));
    }
    for protocol in [
        SocketProtocol::Tcp,
        SocketProtocol::Udp,
        SocketProtocol::Raw,
    ] {
        assert!(sockets::from_text(head, tail, protocol).len() <= text.lines().count());
    }
    assert!(texts::offloads(text).len() <= text.lines().count());
    assert!(texts::modules(text).len() <= text.lines().count());
    let words: Vec<_> = text.split('\0').map(str::to_owned).collect();
    drop(Arguments::read(&words));
});
