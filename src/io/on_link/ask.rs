//! Asks a segment who has an address, as its machines do, and waits for what they would hear.
//!
//! RFC 5227 asks with an unspecified sender, to which a proxy of the kernel does not answer (`arp_process`,
//! linux/net/ipv4/arp.c); so this asks with the host's own address, like every machine that wants to send.
//! A proxy answers within its `proxy_delay`, 0.8 s by default, which sets the patience.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::Subnet;
use super::socket::{FrameSocket, Protocol};
use crate::packet::neighbour::{self, MacAddress};

/// How often each address is asked for.
const ROUNDS: usize = 2;
/// How long answers are waited for after each round: two of them are longer than a proxy takes.
const PATIENCE: Duration = Duration::from_millis(500);
/// Frames that are sent at once, and the pause before the next: 10,000 in a second, which is nothing to a
/// switch and bearable to a host that has to look at each.
pub(super) const BURST: usize = 50;
pub(super) const PAUSE: Duration = Duration::from_millis(5);
/// How often answers are looked for.
const LOOK: Duration = Duration::from_millis(5);

/// Who has this address of this subnet?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The address.
    pub address: IpAddr,
    /// Where to ask.
    pub subnet: &'a Subnet,
}

/// The link-layer addresses that claim to have an address, of the addresses that are claimed; without
/// those of this host, `own`. Takes a second, and a second more for every 5,000 questions; less where all are
/// answered.
///
/// # Errors
/// No socket: EPERM without CAP_NET_RAW, ENODEV where a device is gone.
pub fn ask(
    questions: &[Question<'_>],
    own: &[MacAddress],
) -> io::Result<BTreeMap<IpAddr, BTreeSet<MacAddress>>> {
    let mut inquiry = Inquiry::open(questions, own)?;
    for _ in 0..ROUNDS {
        for burst in questions.chunks(BURST) {
            inquiry.send(burst);
            inquiry.listen(PAUSE)?;
        }
        inquiry.listen(PATIENCE)?;
    }
    Ok(inquiry.claims)
}

struct Inquiry<'a> {
    /// By device and protocol.
    sockets: BTreeMap<(u32, Protocol), FrameSocket>,
    asked: BTreeSet<IpAddr>,
    own: &'a [MacAddress],
    claims: BTreeMap<IpAddr, BTreeSet<MacAddress>>,
}

impl<'a> Inquiry<'a> {
    fn open(questions: &[Question<'_>], own: &'a [MacAddress]) -> io::Result<Self> {
        let mut sockets = BTreeMap::new();
        for question in questions {
            if let Entry::Vacant(entry) = sockets.entry(place(question)) {
                let (link, protocol) = *entry.key();
                entry.insert(FrameSocket::open(link, protocol)?);
            }
        }
        Ok(Self {
            sockets,
            asked: questions.iter().map(|question| question.address).collect(),
            own,
            claims: BTreeMap::new(),
        })
    }

    /// What cannot be sent is as good as lost on the way.
    fn send(&self, questions: &[Question<'_>]) {
        for question in questions {
            let Question { address, subnet } = *question;
            let frame = neighbour::question(address, subnet.source, subnet.mac);
            let socket = self.sockets.get(&place(question));
            if let Some(Err(error)) = socket.map(|socket| socket.send(&frame)) {
                log::debug!("{}: cannot ask for {address}: {error}", subnet.device);
            }
        }
    }

    /// Until the time is over, or nothing is left to hear.
    fn listen(&mut self, patience: Duration) -> io::Result<()> {
        let end = Instant::now() + patience;
        while Instant::now() < end && self.claims.len() < self.asked.len() {
            thread::sleep(LOOK);
            for socket in self.sockets.values() {
                socket.drain(|frame| {
                    let claim = neighbour::claim(frame);
                    let new = |(address, mac): &(IpAddr, MacAddress)| {
                        self.asked.contains(address) && !self.own.contains(mac)
                    };
                    if let Some((address, mac)) = claim.filter(new) {
                        self.claims.entry(address).or_default().insert(mac);
                    }
                })?;
            }
        }
        Ok(())
    }
}

const fn place(question: &Question<'_>) -> (u32, Protocol) {
    (question.subnet.link, Protocol::of(question.address))
}
