//! On real devices, as root.

use super::*;
use aya::EbpfLoader;

use crate::io::netlink::Netlink;
use crate::io::testing::in_namespace_of_root;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tunlb_xsk.bpf.o"));

#[test]
fn programs_are_attached_and_detached() {
    in_namespace_of_root("io::xdp::tests::attached");
}

fn sh(script: &str) {
    let output = std::process::Command::new("sh")
        .args(["-euc", script])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {text}");
}

/// Where the program of a device runs.
fn hook(device: &str) -> Option<Hook> {
    let link = Netlink::open().unwrap().link(device).unwrap().unwrap();
    let hook = |is_native| {
        if is_native {
            Hook::Native
        } else {
            Hook::Generic
        }
    };
    link.xdp.map(|program| hook(program.is_native))
}

const AUTO: &[Hook] = &[Hook::Native, Hook::Generic];

#[test]
#[ignore = "in a network namespace of its own"]
fn attached() {
    sh("ip link add v0 type veth peer name v1
        ip link add d0 type bridge
        ip link add link v1 name m0 type macvlan
        ip link set lo up; ip link set v0 up; ip link set v1 up; ip link set d0 up");
    let mut object = load(&mut EbpfLoader::new(), OBJECT).unwrap();
    let program = &*load_program(&mut object, "tunlb_xsk").unwrap();
    for (device, hooks, expected) in [
        ("v0", AUTO, Hook::Native),
        ("v0", &[Hook::Generic], Hook::Generic),
        ("v0", &[Hook::Native], Hook::Native),
        ("d0", AUTO, Hook::Generic),
        ("m0", AUTO, Hook::Generic),
    ] {
        let attached = attach(program, device, hooks).unwrap();
        assert_eq!(
            (attached.hook, hook(device)),
            (expected, Some(expected)),
            "{device} {hooks:?}"
        );
        drop(attached);
        assert_eq!(hook(device), None, "{device}");
    }
    let refused = |device, hooks| attach(program, device, hooks).unwrap_err().to_string();
    let text = refused("d0", &[Hook::Native]);
    assert!(
        text.starts_with("interface d0: attach XDP program in native mode: "),
        "{text}"
    );
    assert!(text.contains("its driver has no XDP"), "{text}");
    // A program that is there stays, however it came.
    let ours = attach(program, "v0", AUTO).unwrap();
    for hooks in [AUTO, &[Hook::Generic]] {
        let text = refused("v0", hooks);
        assert!(
            text.contains(" (tunlb_xsk) is attached to it and is left as it is; another tunlb"),
            "{text}"
        );
    }
    drop(ours);
    let object = concat!(env!("OUT_DIR"), "/tunlb_xsk.bpf.o");
    sh(&format!(
        "bpftool prog load {object} /sys/fs/bpf/other type xdp"
    ));
    sh("bpftool net attach xdp pinned /sys/fs/bpf/other dev v0");
    let text = refused("v0", AUTO);
    assert!(text.contains("interface v0: XDP program "), "{text}");
    assert_eq!(hook("v0"), Some(Hook::Native));
    sh("bpftool net detach xdp dev v0");
    assert_eq!(refused("none", AUTO), "interface none: no such device");
    assert_eq!(refused("lo", AUTO), "interface lo: not an Ethernet device");
}
