//! IPsec policies (ip-xfrm(8)): how many there are for what leaves this host.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};

use super::{NetlinkError, Operation, malformed, socket_error};

/// Of linux/xfrm.h.
const XFRM_MSG_NEWSPDINFO: u16 = 0x24;
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRMA_SPD_INFO: u16 = 1;

const NLM_F_REQUEST: u16 = 1;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// The flags that follow it.
const FLAGS: usize = 4;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// Where `incnt` and `outcnt` are in `struct xfrmu_spdinfo`.
const INCOMING: usize = 0;
const OUTGOING: usize = 4;

/// How many IPsec policies select packets that leave this host; needs CAP_NET_ADMIN. 0 on a kernel without
/// IPsec.
///
/// # Errors
/// [`NetlinkError::Socket`], [`NetlinkError::Refused`] without the capability, [`NetlinkError::Malformed`].
pub fn outgoing_ipsec_policies() -> Result<u32, NetlinkError> {
    Ok(count()?.outgoing)
}

/// How many IPsec policies select packets that come in or leave; as
/// [`outgoing_ipsec_policies`] otherwise.
///
/// # Errors
/// As of [`outgoing_ipsec_policies`].
pub fn ipsec_policies() -> Result<u32, NetlinkError> {
    let count = count()?;
    Ok(count.incoming + count.outgoing)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Count {
    incoming: u32,
    outgoing: u32,
}

fn count() -> Result<Count, NetlinkError> {
    let answer = match ask() {
        Ok(answer) => answer,
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
            return Ok(Count::default());
        }
        Err(error) => return Err(socket_error(&operation(), error)),
    };
    read(&answer)
}

fn operation() -> Operation {
    Operation::new("count", "IPsec policies")
}

fn ask() -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_XFRM)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = u32::try_from(HEADER + FLAGS).unwrap_or_default();
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(XFRM_MSG_GETSPDINFO.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8 + FLAGS]); // sequence number, port, and no flags
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    Ok(answer)
}

fn read(answer: &[u8]) -> Result<Count, NetlinkError> {
    let short = || malformed(&operation(), answer.len(), "too short");
    let half = |at: usize| -> Option<u16> {
        let bytes = answer.get(at..at + 2)?;
        bytes.try_into().ok().map(u16::from_ne_bytes)
    };
    let word = |at: usize| -> Option<[u8; 4]> { answer.get(at..at + 4)?.try_into().ok() };
    if half(4) != Some(XFRM_MSG_NEWSPDINFO) {
        let error = word(HEADER).map(i32::from_ne_bytes).ok_or_else(short)?;
        return Err(NetlinkError::Refused {
            operation: operation(),
            cause: io::Error::from_raw_os_error(error.wrapping_neg()),
        });
    }
    let mut at = HEADER + FLAGS;
    loop {
        let length = half(at).ok_or_else(short)?;
        if half(at + 2) == Some(XFRMA_SPD_INFO) {
            let number = |of| word(at + ATTRIBUTE + of).map(u32::from_ne_bytes);
            return Ok(Count {
                incoming: number(INCOMING).ok_or_else(short)?,
                outgoing: number(OUTGOING).ok_or_else(short)?,
            });
        }
        at += usize::from(length).max(ATTRIBUTE).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::in_namespace;
    use proptest::prelude::*;
    use std::process::Command;

    #[test]
    fn the_kernel_counts_them() {
        in_namespace("io::netlink::ipsec::tests::the_kernel_counts_them_inside");
    }

    #[test]
    #[ignore = "run by the_kernel_counts_them in a namespace of its own"]
    fn the_kernel_counts_them_inside() {
        assert_eq!(outgoing_ipsec_policies().unwrap(), 0);
        let status = Command::new("ip")
            .args("xfrm policy add dir out src 0.0.0.0/0 dst 10.0.1.0/24 action block".split(' '))
            .status();
        assert!(status.unwrap().success());
        assert_eq!(outgoing_ipsec_policies().unwrap(), 1);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(answer in prop::collection::vec(any::<u8>(), 0..96)) {
            let mut told = answer.clone();
            if let Some(kind) = told.get_mut(4..6) {
                kind.copy_from_slice(&XFRM_MSG_NEWSPDINFO.to_ne_bytes());
            }
            drop(read(&answer));
            drop(read(&told));
        }
    }
}
