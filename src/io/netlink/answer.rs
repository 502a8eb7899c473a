//! What the kernel's answers say, apart from the socket that they come by: bytes in, values out.

use std::io;

use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_sock_diag::SockDiagMessage;

use super::address::{Address, addresses_of};
use super::link::{Link, links_of};
use super::neighbour::{Neighbour, neighbour_of};
use super::route::{Route, route_of};
use super::rule::{PolicyRule, rule_of};
use super::socket::{BoundSocket, socket_of};
use super::{HEADER_BYTES, Message, NetlinkError, Operation, malformed};

/// An object in an answer of a routing socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelObject {
    /// A device.
    Link(Box<Link>),
    /// An address of a device.
    Address(Address),
    /// An entry of the neighbour tables.
    Neighbour(Neighbour),
    /// A route.
    Route(Route),
    /// A policy rule.
    Rule(Box<PolicyRule>),
}

/// Reads a datagram of a routing socket that answers the request with this sequence number: the objects
/// in it, as far as they are of a kind that is read at all.
///
/// # Errors
/// The kernel's refusal, or [`NetlinkError::Malformed`].
pub fn read_answers(bytes: &[u8], sequence: u32) -> Result<Vec<KernelObject>, NetlinkError> {
    let mut messages = Vec::new();
    let operation = Operation::new("read", "an answer");
    read_datagram::<RouteNetlinkMessage>(&operation, bytes, sequence, &mut messages)?;
    Ok(messages.into_iter().filter_map(object_of).collect())
}

/// As [`read_answers`], of the socket tables.
///
/// # Errors
/// As of [`read_answers`].
pub fn read_sockets(bytes: &[u8], sequence: u32) -> Result<Vec<BoundSocket>, NetlinkError> {
    let mut messages = Vec::new();
    let operation = Operation::new("read", "a list of sockets");
    read_datagram::<SockDiagMessage>(&operation, bytes, sequence, &mut messages)?;
    Ok(messages.into_iter().filter_map(socket_of).collect())
}

fn object_of(message: RouteNetlinkMessage) -> Option<KernelObject> {
    let kinds: [fn(RouteNetlinkMessage) -> Option<KernelObject>; 5] = [
        |message| {
            links_of(vec![message])
                .pop()
                .map(Box::new)
                .map(KernelObject::Link)
        },
        |message| addresses_of(vec![message]).pop().map(KernelObject::Address),
        |message| neighbour_of(message).map(KernelObject::Neighbour),
        |message| route_of(message).map(KernelObject::Route),
        |message| rule_of(message).map(Box::new).map(KernelObject::Rule),
    ];
    kinds.iter().find_map(|kind| kind(message.clone()))
}

/// What one datagram adds to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) consistency: Consistency,
    pub(super) progress: Progress,
}

/// Collects the answers to the request with this sequence number out of one datagram.
pub(super) fn read_datagram<M: Message>(
    operation: &Operation,
    bytes: &[u8],
    sequence: u32,
    answers: &mut Vec<M>,
) -> Result<Read, NetlinkError> {
    let mut read = Read {
        consistency: Consistency::Settled,
        progress: Progress::More,
    };
    let mut rest = bytes;
    while !rest.is_empty() && read.progress == Progress::More {
        let (message, after) = split_message(operation, rest)?;
        rest = after;
        if message.header.sequence_number != sequence {
            continue;
        }
        if message.header.flags & NLM_F_DUMP_INTR != 0 {
            read.consistency = Consistency::Interrupted;
        }
        read.progress = take(operation, message.payload, answers)?;
    }
    Ok(read)
}

/// Whether a dump shows one state of the kernel, or several mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// One state.
    Settled,
    /// Objects changed meanwhile; any may be missing, some may be gone already.
    Interrupted,
}

/// Whether the answer goes on in another datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
}

/// Sorts one payload: an answer, the end, or the kernel's refusal.
fn take<M: Message>(
    operation: &Operation,
    payload: NetlinkPayload<M>,
    answers: &mut Vec<M>,
) -> Result<Progress, NetlinkError> {
    match payload {
        NetlinkPayload::InnerMessage(message) => {
            answers.push(message);
            Ok(Progress::More)
        }
        NetlinkPayload::Done(done) => check_code(operation, done.code),
        NetlinkPayload::Error(error) => check_code(operation, error.raw_code()),
        NetlinkPayload::Noop => Ok(Progress::More),
        NetlinkPayload::Overrun(_) | _ => Err(malformed(operation, 0, "messages were lost")),
    }
}

/// The end of an answer: 0, or a negative error number.
pub(super) fn check_code(operation: &Operation, code: i32) -> Result<Progress, NetlinkError> {
    let operation = operation.clone();
    match code.wrapping_neg() {
        0 => Ok(Progress::Done),
        libc::EEXIST => Err(NetlinkError::Exists { operation }),
        errno => Err(NetlinkError::Refused {
            operation,
            cause: io::Error::from_raw_os_error(errno),
        }),
    }
}

/// Cuts the first message off `bytes`; messages start at multiples of 4 bytes.
pub(super) fn split_message<'a, M: Message>(
    operation: &Operation,
    bytes: &'a [u8],
) -> Result<(NetlinkMessage<M>, &'a [u8]), NetlinkError> {
    let length = declared_length(bytes)
        .filter(|length| (HEADER_BYTES..=bytes.len()).contains(length))
        .ok_or_else(|| malformed(operation, bytes.len(), "message length out of bounds"))?;
    let message = NetlinkMessage::deserialize(&bytes[..length])
        .map_err(|error| malformed(operation, length, &error.to_string()))?;
    let next = length.next_multiple_of(4).min(bytes.len());
    Ok((message, &bytes[next..]))
}

fn declared_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.first_chunk().copied()?);
    usize::try_from(length).ok()
}
