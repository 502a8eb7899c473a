//! What a device can do itself (ethtool(8)), by the older interface that needs no library: an ioctl.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Of linux/ethtool.h.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETH_SS_FEATURES: u32 = 4;
const NAME: usize = 32;

/// More than any kernel has.
const MOST_FEATURES: usize = 32 * BLOCKS as usize;
const BLOCKS: u32 = 8;

/// Whether a feature such as "tx-udp-segmentation" is on for the device of that name; false where the device or
/// the feature is not known. `socket` is any of the network namespace.
pub fn has_device_feature(socket: BorrowedFd<'_>, device: &str, feature: &str) -> bool {
    find_feature(socket, device, feature).unwrap_or(false)
}

fn find_feature(socket: BorrowedFd<'_>, device: &str, feature: &str) -> io::Result<bool> {
    let count = count_features(socket, device)?;
    // Command, set, number, then the names.
    let mut names = words(3 + MOST_FEATURES * NAME / 4);
    names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, 0]);
    ask(socket, device, &mut names)?;
    let bytes: Vec<u8> = names[3..]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let mut named = bytes.chunks(NAME).take(count);
    let is_it = |name: &[u8]| name.split(|&byte| byte == 0).next() == Some(feature.as_bytes());
    let Some(bit) = named.position(is_it) else {
        return Ok(false);
    };
    // Command, number of blocks, then blocks: available, requested, active, never changed.
    let mut blocks = words(2 + BLOCKS as usize * 4);
    blocks[..2].copy_from_slice(&[ETHTOOL_GFEATURES, BLOCKS]);
    ask(socket, device, &mut blocks)?;
    let active = blocks[2 + bit / 32 * 4 + 2];
    Ok(active >> (bit % 32) & 1 == 1)
}

fn count_features(socket: BorrowedFd<'_>, device: &str) -> io::Result<usize> {
    // Command, reserved, mask of sets in two words, then the number.
    let mut sets = words(5);
    sets[0] = ETHTOOL_GSSET_INFO;
    let mask = (1_u64 << ETH_SS_FEATURES).to_ne_bytes();
    let (first, second) = mask.split_at(4);
    for (word, bytes) in sets[2..].iter_mut().zip([first, second]) {
        *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
    }
    ask(socket, device, &mut sets)?;
    let count = usize::try_from(sets[4]).unwrap_or(usize::MAX);
    if count > MOST_FEATURES {
        return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
    }
    Ok(count)
}

/// Zeros.
fn words(count: usize) -> Vec<u32> {
    vec![0; count]
}

/// `data` is long enough for the answer to its command.
fn ask(socket: BorrowedFd<'_>, device: &str, data: &mut [u32]) -> io::Result<()> {
    // SAFETY: plain C data for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
    // SAFETY: the kernel reads the name, and reads and writes `data`, as much of it as its command says.
    let answer =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
