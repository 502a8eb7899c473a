//! Tests of a pipeline whose egress fails: every packet is counted once, by what became of it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::pipeline::{Pipeline, drop_reason, send_errno};
use crate::director::{BURST_SIZES, Director, DropReason, SendErrno, Timestamp};
use crate::io::egress::{Egress, Errno, MemoryEgress, SendError, Sent};
use crate::io::ingress::MemoryIngress;
use crate::packet::{Burst, Outgoing, Tunnels};
use crate::site::testing::{config, director};

/// What goes wrong with a burst.
#[derive(Debug, Clone)]
enum Fault {
    Nothing,
    /// These packets are refused, each for its reason.
    Refuse(BTreeMap<usize, SendError>),
    /// The rest after so many is refused: a partial send, or a stall where nothing is sent.
    Cut(usize, SendError),
}

impl Fault {
    fn of(&self, position: usize) -> Sent {
        let error = match self {
            Self::Nothing => None,
            Self::Refuse(errors) => errors.get(&position).copied(),
            Self::Cut(sent, error) => (position >= *sent).then_some(*error),
        };
        error.map_or(Ok(()), Err)
    }
}

/// An egress around another one, which gets what no fault keeps from it.
#[derive(Debug)]
struct Faulty<E> {
    inner: E,
    fault: Fault,
}

impl<E: Egress> Egress for Faulty<E> {
    fn send(
        &mut self,
        burst: &mut Burst,
        packets: &mut [Outgoing],
        tunnels: &impl Tunnels,
        results: &mut [Sent],
    ) {
        for (position, result) in results.iter_mut().enumerate() {
            *result = self.fault.of(position);
        }
        let passed: Vec<_> = (0..packets.len())
            .filter(|&position| results[position].is_ok())
            .collect();
        for position in passed {
            let at = position..=position;
            self.inner
                .send(burst, &mut packets[at.clone()], tunnels, &mut results[at]);
        }
    }
}

fn two_backends() -> Director {
    let config = config(&["10.0.0.100:80/tcp"], &["10.0.1.11", "10.0.1.12"]);
    director(&config, 0, 1)
}

/// A SYN to the VIP from a port.
fn syn(port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
    packet.extend([10, 0, 9, 2, 10, 0, 0, 100]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 80, 0, 0, 0, 1, 0, 0, 0, 0]);
    packet.extend([0x50, 0x02, 2, 0, 0, 0, 0, 0]);
    packet
}

fn errors() -> impl Strategy<Value = SendError> {
    prop_oneof![
        Just(SendError::Full(Errno(libc::ENOBUFS))),
        Just(SendError::Full(Errno(libc::EAGAIN))),
        Just(SendError::TooBig),
        Just(SendError::Unreachable(Errno(libc::ENETDOWN))),
        Just(SendError::Refused(Errno(libc::EPERM))),
        Just(SendError::Other(Errno(libc::EIO))),
    ]
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Nothing),
        prop::collection::btree_map(0_usize..64, errors(), 1..20).prop_map(Fault::Refuse),
        (0_usize..64, errors()).prop_map(|(sent, error)| Fault::Cut(sent, error)),
    ]
}

proptest! {
    #[test]
    fn every_packet_is_counted_once(bursts in prop::collection::vec((1_usize..=64, faults()), 1..12)) {
        let egress = Faulty { inner: MemoryEgress::default(), fault: Fault::Nothing };
        let mut pipeline = Pipeline::new(MemoryIngress::default(), egress, two_backends(), 1500);
        let (mut sent, mut dropped) = (0_u64, BTreeMap::<&str, u64>::new());
        let (mut errors, mut sizes) = (BTreeMap::<&str, u64>::new(), Vec::new());
        let mut port = 1024_u16;
        for (count, fault) in bursts {
            let mut arrived = Vec::new();
            for position in 0..count {
                let packet = syn(port);
                port += 1;
                match fault.of(position) {
                    Ok(()) => {
                        sent += 1;
                        arrived.push(packet.clone());
                    }
                    Err(error) => {
                        *dropped.entry(drop_reason(error).name()).or_default() += 1;
                        *errors.entry(send_errno(error).name()).or_default() += 1;
                    }
                }
                pipeline.ingress.packets.push_back(packet);
            }
            pipeline.egress.fault = fault;
            sizes.push(count as u64);
            pipeline.turn(Timestamp::default()).unwrap();
            let left = pipeline.egress.inner.packets.drain(..);
            let inner: Vec<_> = left.map(|(_, outer)| outer[20..].to_vec()).collect();
            prop_assert_eq!(inner, arrived);
        }
        let counters = pipeline.director().counters();
        for reason in [DropReason::SendFailed, DropReason::TooBig] {
            let expected = dropped.get(reason.name()).copied().unwrap_or_default();
            prop_assert_eq!(counters.dropped(reason), expected);
            let vip = pipeline.director().snapshot().vips()[0].seat;
            prop_assert_eq!(counters.vip_dropped(vip, reason), expected);
        }
        for errno in SendErrno::ALL {
            let expected = errors.get(errno.name()).copied().unwrap_or_default();
            prop_assert_eq!(counters.send_errors(errno), expected, "{}", errno.name());
        }
        let within = |bound| sizes.iter().filter(|&&size| size <= bound).count() as u64;
        let mut bursts = 0;
        for (bound, of_size) in BURST_SIZES.into_iter().zip(counters.bursts().of_size) {
            bursts += of_size;
            prop_assert_eq!(bursts, within(bound), "of at most {}", bound);
        }
        prop_assert_eq!(counters.bursts().packets, sizes.iter().sum::<u64>());
        prop_assert_eq!(counters.flows(), sizes.iter().sum::<u64>());
        let backends = pipeline.director().snapshot().backends();
        let counted: u64 = backends.map(|(index, _)| counters.traffic(index).packets).sum();
        prop_assert_eq!(counted, sent);
    }
}
