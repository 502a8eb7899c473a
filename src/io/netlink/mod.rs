//! A small synchronous client of the kernel's routing sockets (rtnetlink(7)): links, addresses, routes,
//! rules, neighbours; and of its socket tables (sock_diag(7)).
//!
//! One request is under way at a time and each call waits for its answer; nothing here runs per packet.
//! The socket asks for strict checks (`NETLINK_GET_STRICT_CHK`), so that the kernel refuses a filter
//! that it does not know instead of dumping everything.

mod address;
mod answer;
mod connected;
mod ipsec;
mod link;
mod monitor;
mod neighbour;
mod probe_route;
mod queueing;
mod route;
mod rule;
mod socket;
mod table;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use address::Address;
pub use answer::{Consistency, KernelObject, read_answers, read_sockets};
use answer::{Progress, read_datagram};
pub use connected::ConnectedSubnet;
pub use ipsec::{ipsec_policies, outgoing_ipsec_policies};
pub use link::{Link, TunAttributes, TunMode, TunQueueing, TunnelAttributes, XdpProgram};
pub use monitor::{Departure, Drained, Event, Monitor, PolicyTopic, Topic};
pub use neighbour::{Neighbour, ProxyNeighbour};
pub use probe_route::{PROBE_METRIC, PROBE_PROTOCOL, ProbeRoute};
pub use queueing::{QueueingCounts, QueueingDiscipline, QueueingPlace};
pub use route::{Route, RouteKind, RouteQuery};
pub use rule::PolicyRule;
pub(in crate::io) use socket::peer_of;
pub use socket::{BoundSocket, SocketProtocol, SocketTables};
pub use table::{MAIN_TABLE, TableRoute};

/// The kernel builds dump messages of at most 32 KiB (`netlink_dump`, linux/net/netlink/af_netlink.c).
const RECEIVE_BYTES: usize = 64 * 1024;

/// A dump that changed while it was read is read anew, this often at most.
const DUMP_ATTEMPTS: usize = 5;

/// Bytes of a netlink message before its payload (`struct nlmsghdr`).
const HEADER_BYTES: usize = 16;

/// What both directions of a protocol need of its messages.
trait Message: NetlinkSerializable + NetlinkDeserializable + Clone {}

impl<M: NetlinkSerializable + NetlinkDeserializable + Clone> Message for M {}

/// What was attempted, on which object: "add route 10.0.0.100/32 dev 4".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    verb: &'static str,
    object: String,
}

impl Operation {
    fn new(verb: &'static str, object: impl ToString) -> Self {
        Self {
            verb,
            object: object.to_string(),
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.object)
    }
}

/// Why a netlink call failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("netlink socket, {operation}: {cause}")]
    Socket {
        /// What was attempted.
        operation: Operation,
        /// The system's error.
        cause: io::Error,
    },
    /// The kernel has such an object already (EEXIST).
    #[error("{operation}: exists already")]
    Exists {
        /// What was attempted.
        operation: Operation,
    },
    /// The kernel refused.
    #[error("{operation}: {cause}")]
    Refused {
        /// What was attempted.
        operation: Operation,
        /// The error number that the kernel answered.
        cause: io::Error,
    },
    /// The answer could not be read.
    #[error("{operation}: answer of {length} bytes not understood: {reason}")]
    Malformed {
        /// What was attempted.
        operation: Operation,
        /// Bytes received.
        length: usize,
        /// What is wrong with them.
        reason: String,
    },
    /// The objects kept changing while they were listed.
    #[error("{operation}: changed during each of {DUMP_ATTEMPTS} attempts to list it")]
    Unsettled {
        /// What was attempted.
        operation: Operation,
    },
}

impl NetlinkError {
    /// The error number of the kernel's refusal; `None` for every other failure.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { cause, .. } => cause.raw_os_error(),
            Self::Exists { .. } => Some(libc::EEXIST),
            Self::Socket { .. } | Self::Malformed { .. } | Self::Unsettled { .. } => None,
        }
    }
}

/// A connection to the kernel of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a connection; needs no privileges.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_protocol(NETLINK_ROUTE, "NETLINK_ROUTE")
    }

    fn open_protocol(protocol: isize, name: &str) -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_netlink_get_strict_chk(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|cause| NetlinkError::Socket {
            operation: Operation::new("open", name),
            cause,
        })?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; RECEIVE_BYTES],
        })
    }

    /// Sends a change and waits for the kernel's word on it.
    fn change(
        &mut self,
        operation: &Operation,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.send(operation, message, NLM_F_ACK | flags)?;
        let mut none = Vec::<RouteNetlinkMessage>::new();
        self.answers(operation, &mut none).map(|_| ())
    }

    /// Asks for one object.
    fn query<M: Message>(
        &mut self,
        operation: &Operation,
        message: M,
    ) -> Result<Vec<M>, NetlinkError> {
        // The acknowledgement marks the end, so a query reads like a change.
        self.send(operation, message, NLM_F_ACK)?;
        let mut answers = Vec::new();
        self.answers(operation, &mut answers)?;
        Ok(answers)
    }

    /// Lists all objects of one kind, from one consistent state.
    fn dump<M: Message>(
        &mut self,
        operation: &Operation,
        message: &M,
    ) -> Result<Vec<M>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let (answers, consistency) = self.dump_once(operation, message)?;
            if consistency == Consistency::Settled {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Unsettled {
            operation: operation.clone(),
        })
    }

    /// Lists all objects of one kind as [`Self::dump`] does; where they keep changing, returns what each
    /// of the attempts showed, one after the other. A listing that is interrupted may miss any object.
    fn dump_what_shows<M: Message>(
        &mut self,
        operation: &Operation,
        message: &M,
    ) -> Result<(Vec<M>, Consistency), NetlinkError> {
        let mut all = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            let (answers, consistency) = self.dump_once(operation, message)?;
            if consistency == Consistency::Settled {
                return Ok((answers, consistency));
            }
            all.extend(answers);
        }
        Ok((all, Consistency::Interrupted))
    }

    fn dump_once<M: Message>(
        &mut self,
        operation: &Operation,
        message: &M,
    ) -> Result<(Vec<M>, Consistency), NetlinkError> {
        self.send(operation, message.clone(), NLM_F_DUMP)?;
        let mut answers = Vec::new();
        let consistency = self.answers(operation, &mut answers)?;
        Ok((answers, consistency))
    }

    fn send<M: Message>(
        &mut self,
        operation: &Operation,
        message: M,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let payload = NetlinkPayload::InnerMessage(message);
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket
            .send(&bytes, 0)
            .map(|_| ())
            .map_err(|cause| socket_error(operation, cause))
    }

    /// Collects the answers to the last request until the kernel says that it is done.
    fn answers<M: Message>(
        &mut self,
        operation: &Operation,
        answers: &mut Vec<M>,
    ) -> Result<Consistency, NetlinkError> {
        let mut consistency = Consistency::Settled;
        loop {
            let length = self.receive(operation)?;
            let bytes = self.buffer.get(..length).unwrap_or_default();
            let read = read_datagram(operation, bytes, self.sequence, answers)?;
            if read.consistency == Consistency::Interrupted {
                consistency = Consistency::Interrupted;
            }
            if read.progress == Progress::Done {
                return Ok(consistency);
            }
        }
    }

    /// Receives one datagram into the buffer; returns its length in bytes.
    fn receive(&mut self, operation: &Operation) -> Result<usize, NetlinkError> {
        let length = loop {
            let mut space = self.buffer.as_mut_slice();
            match self.socket.recv(&mut space, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(|cause| socket_error(operation, cause))?,
            }
        };
        if length > self.buffer.len() {
            return Err(malformed(operation, length, "longer than the buffer"));
        }
        Ok(length)
    }
}

fn socket_error(operation: &Operation, cause: io::Error) -> NetlinkError {
    NetlinkError::Socket {
        operation: operation.clone(),
        cause,
    }
}

fn malformed(operation: &Operation, length: usize, reason: &str) -> NetlinkError {
    NetlinkError::Malformed {
        operation: operation.clone(),
        length,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::answer::{check_code, split_message};
    use super::*;
    use crate::io::{
        testing::in_namespace,
        tun::{Offloads, TunDevice},
        undo::Undo,
    };
    use netlink_packet_sock_diag::SockDiagMessage;
    use proptest::prelude::*;
    use std::num::NonZeroUsize;

    fn operation() -> Operation {
        Operation::new("list", "links")
    }

    #[test]
    fn refusals_name_operation_object_and_cause() {
        let error = check_code(
            &Operation::new("add route", "10.0.0.100/32 dev 4"),
            -libc::EPERM,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "add route 10.0.0.100/32 dev 4: Operation not permitted (os error 1)"
        );
        assert_eq!(error.errno(), Some(libc::EPERM));
        let error = check_code(&operation(), -libc::EEXIST).unwrap_err();
        assert!(matches!(error, NetlinkError::Exists { .. }));
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        for bytes in [
            &[20u8, 0, 0][..],
            &[0; 16],
            &[15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[17, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(matches!(
                split_message::<RouteNetlinkMessage>(&operation(), bytes),
                Err(NetlinkError::Malformed { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            drop(split_message::<RouteNetlinkMessage>(&operation(), &bytes));
            drop(split_message::<SockDiagMessage>(&operation(), &bytes));
            let mut framed = bytes;
            let declared = u32::try_from(framed.len()).unwrap().to_ne_bytes();
            framed.iter_mut().zip(declared).for_each(|(byte, declared)| *byte = declared);
            drop(split_message::<RouteNetlinkMessage>(&operation(), &framed));
            drop(split_message::<SockDiagMessage>(&operation(), &framed));
        }
    }

    #[test]
    fn the_kernel_takes_changes_and_tells_of_them() {
        in_namespace("io::netlink::tests::the_kernel_takes_changes_and_tells_of_them_inside");
    }

    #[test]
    #[ignore = "run by the_kernel_takes_changes_and_tells_of_them in a namespace of its own"]
    fn the_kernel_takes_changes_and_tells_of_them_inside() {
        let mut undo = Undo::new().unwrap();
        let device = TunDevice::open(
            "tunlb0",
            NonZeroUsize::MIN,
            Offloads::Never,
            1480,
            &mut undo,
        )
        .unwrap();
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_up(lo).unwrap();

        for net in ["10.1.0.1/24", "2001:db8::1/64"] {
            netlink
                .add_address(device.index, net.parse().unwrap())
                .unwrap();
            let again = netlink.add_address(device.index, net.parse().unwrap());
            assert!(
                matches!(again, Err(NetlinkError::Exists { .. })),
                "{again:?}"
            );
        }

        for (net, inside) in [
            ("10.9.0.0/16", "10.9.1.2"),
            ("2001:db8:9::/48", "2001:db8:9::2"),
        ] {
            let (net, inside) = (net.parse().unwrap(), inside.parse().unwrap());
            netlink.add_route(net, device.index).unwrap();
            let again = netlink.add_route(net, lo);
            assert!(
                matches!(again, Err(NetlinkError::Exists { .. })),
                "{again:?}"
            );
            let route = netlink.route_to(inside, RouteQuery::default()).unwrap();
            assert_eq!(
                (route.kind, route.oif),
                (RouteKind::Unicast, Some(device.index))
            );
            assert!(route.preferred_source.is_some());
            netlink.remove_route(net, device.index).unwrap();
            let again = netlink.remove_route(net, device.index).unwrap_err();
            assert_eq!(again.errno(), Some(libc::ESRCH));
        }

        let outside = netlink.route_to("192.0.2.1".parse().unwrap(), RouteQuery::default());
        assert_eq!(outside.unwrap_err().errno(), Some(libc::ENETUNREACH));
        // The doctor's oracle: a packet to our address, as if it came in from a client there.
        let query = RouteQuery {
            from: Some("10.1.0.9".parse().unwrap()),
            iif: Some(device.index),
            ..RouteQuery::default()
        };
        let route = netlink
            .route_to("10.1.0.1".parse().unwrap(), query)
            .unwrap();
        assert_eq!(route.kind, RouteKind::Local);
    }
}
