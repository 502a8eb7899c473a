//! What a file is that is no capture, by its first bytes, and what to do about it.

use std::fmt;

/// First bytes of other kinds of files.
const KINDS: [(&[u8], &str); 14] = [
    (
        &[0x1f, 0x8b],
        "it is compressed by gzip; unpack it first: gunzip",
    ),
    (
        &[0x28, 0xb5, 0x2f, 0xfd],
        "it is compressed by zstd; unpack it first: unzstd",
    ),
    (
        &[0xfd, b'7', b'z', b'X'],
        "it is compressed by xz; unpack it first: unxz",
    ),
    (
        b"BZh",
        "it is compressed by bzip2; unpack it first: bunzip2",
    ),
    (
        &[0x04, 0x22, 0x4d, 0x18],
        "it is compressed by lz4; unpack it first: unlz4",
    ),
    (b"PK\x03\x04", "it is a ZIP archive; unpack it first: unzip"),
    (b"7z\xbc\xaf", "it is a 7z archive; unpack it first: 7z x"),
    (&[0x7f, b'E', b'L', b'F'], "it is a program (ELF)"),
    (
        b"snoo",
        "it is a capture of snoop; convert it first: editcap -F pcap",
    ),
    (
        b"GMBU",
        "it is a capture of Network Monitor; convert it first: editcap -F pcap",
    ),
    (&[0xa1, 0xb2, 0xcd, 0x34], MODIFIED),
    (&[0x34, 0xcd, 0xb2, 0xa1], MODIFIED),
    (&[0xff, 0xfe], "it is text in UTF-16"),
    (&[0; 4], "it begins with zeros"),
];

const MODIFIED: &str = "it is pcap as modified by old kernels; convert it first: editcap -F pcap";

/// Displays what a file with these first bytes is.
pub(super) fn of(magic: [u8; 4]) -> impl fmt::Display {
    let known = KINDS.iter().find(|(bytes, _)| magic.starts_with(bytes));
    let is_text = magic
        .iter()
        .all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'));
    fmt::from_fn(move |f| match known {
        Some((_, what)) => f.write_str(what),
        None if is_text => f.write_str("it is text"),
        None => {
            f.write_str("it begins with the bytes")?;
            magic.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_files() {
        for (magic, words) in [
            (*b"\x1f\x8b\x08\x08", "gzip; unpack it first: gunzip"),
            (*b"\x28\xb5\x2f\xfd", "zstd; unpack it first: unzstd"),
            (*b"\xfd7zX", "xz; unpack it first: unxz"),
            (*b"BZh9", "bzip2; unpack it first: bunzip2"),
            (*b"\x7fELF", "a program"),
            (*b"[vip", "it is text"),
            (*b"\xff\xfe[\0", "UTF-16"),
            (*b"\xca\xfe\0\x01", "it begins with the bytes ca fe 00 01"),
        ] {
            let text = of(magic).to_string();
            assert!(text.ends_with(words) || text.contains(words), "{text}");
        }
    }
}
