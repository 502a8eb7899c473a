//! The addresses of this machine, which no inner packet may come from: listed once, then followed change
//! by change, however many there are.
//!
//! Where changes were lost, or too many came while the addresses were listed, they are listed again,
//! less and less often, and the last known ones hold meanwhile.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use hashbrown::{HashMap, HashSet};

use crate::io::netlink::{
    Address, Consistency, Drained, Event, Monitor, Netlink, NetlinkError, Topic,
};

use super::admission::Admission;

/// The first wait before a new listing; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait: a listing of 10,000 addresses takes some milliseconds, in which no packet moves.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Follows the addresses, and tells [`Admission`].
#[derive(Debug)]
pub(super) struct LocalAddresses {
    pub(super) monitor: Monitor,
    netlink: Netlink,
    known: Known,
    /// When to list them again; none: what is known is right.
    pub(super) again: Option<Instant>,
    wait: Duration,
}

impl LocalAddresses {
    /// Lists them.
    ///
    /// # Errors
    /// Any [`NetlinkError`].
    pub(super) fn open(admission: &mut Admission, now: Instant) -> Result<Self, NetlinkError> {
        let mut local = Self {
            monitor: Monitor::open(&[Topic::Addresses])?,
            netlink: Netlink::open()?,
            known: Known::default(),
            again: None,
            wait: FIRST_WAIT,
        };
        local.list(admission, now)?;
        Ok(local)
    }

    /// Takes changes that wait, for one turn at most.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub(super) fn follow(
        &mut self,
        admission: &mut Admission,
        now: Instant,
    ) -> Result<Drained, NetlinkError> {
        let Self { known, again, .. } = self;
        self.monitor.drain(|event| match event {
            Event::AddressAdded(address) => known.add(address, admission),
            Event::AddressRemoved(address) => known.remove(address, admission),
            Event::Lost => *again = again.or(Some(now)),
            Event::Link(_)
            | Event::LinkRemoved { .. }
            | Event::Settings
            | Event::Routes
            | Event::Way
            | Event::Policy => {}
        })
    }

    /// Lists the addresses again where that is due.
    pub(super) fn refresh(&mut self, admission: &mut Admission, now: Instant) {
        if self.again.is_none_or(|again| now < again) {
            return;
        }
        if let Err(error) = self.list(admission, now) {
            log::warn!("the last known addresses of this machine hold: {error}");
            self.list_later(now);
        }
    }

    fn list(&mut self, admission: &mut Admission, now: Instant) -> Result<(), NetlinkError> {
        let (addresses, consistency) = self.netlink.addresses_that_show()?;
        match consistency {
            Consistency::Settled => {
                self.known.replace(addresses, admission);
                self.again = None;
                self.wait = FIRST_WAIT;
            }
            Consistency::Interrupted => {
                for address in addresses {
                    self.known.add(address, admission);
                }
                self.list_later(now);
            }
        }
        Ok(())
    }

    fn list_later(&mut self, now: Instant) {
        self.again = Some(now + self.wait);
        self.wait = LONGEST_WAIT.min(self.wait * 2);
    }
}

/// Addresses by device. One that several devices have is an address of this machine until the last of
/// them loses it.
#[derive(Debug, Default)]
struct Known {
    addresses: HashSet<Address, ahash::RandomState>,
    devices: HashMap<IpAddr, u32, ahash::RandomState>,
}

impl Known {
    fn replace(&mut self, addresses: Vec<Address>, admission: &mut Admission) {
        *self = Self::default();
        admission.forget_local_addresses();
        for address in addresses {
            self.add(address, admission);
        }
    }

    fn add(&mut self, address: Address, admission: &mut Admission) {
        if self.addresses.insert(address) {
            *self.devices.entry(address.net.addr()).or_default() += 1;
            admission.add_local_address(address.net.addr());
        }
    }

    fn remove(&mut self, address: Address, admission: &mut Admission) {
        if !self.addresses.remove(&address) {
            return;
        }
        let ip = address.net.addr();
        let left = self.devices.get(&ip).map_or(0, |count| count - 1);
        if left == 0 {
            self.devices.remove(&ip);
            admission.remove_local_address(ip);
        } else {
            self.devices.insert(ip, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::in_namespace;
    use proptest::prelude::*;
    use std::{process::Command, thread};

    fn address(link: u32, net: &str) -> Address {
        Address {
            link,
            net: net.parse().unwrap(),
        }
    }

    fn admission() -> Admission {
        Admission::new(&[IpAddr::from([203, 0, 113, 10])], &[])
    }

    #[test]
    fn an_address_is_local_until_its_last_device_loses_it() {
        let (mut known, mut admission) = (Known::default(), admission());
        let ip = IpAddr::from([10, 0, 0, 1]);
        for (device, net) in [(1, "10.0.0.1/24"), (2, "10.0.0.1/32"), (2, "10.0.0.1/32")] {
            known.add(address(device, net), &mut admission);
        }
        known.remove(address(3, "10.0.0.1/24"), &mut admission);
        known.remove(address(1, "10.0.0.1/24"), &mut admission);
        assert!(admission.is_local(ip));
        known.remove(address(2, "10.0.0.1/32"), &mut admission);
        assert!(!admission.is_local(ip));
        known.add(address(2, "10.0.0.1/32"), &mut admission);
        known.replace(vec![address(1, "10.0.0.2/24")], &mut admission);
        assert!(!admission.is_local(ip));
        assert!(admission.is_local([10, 0, 0, 2].into()));
    }

    proptest! {
        /// Whatever comes and goes, in whatever order: what is local is what some device has.
        #[test]
        fn what_is_local_is_what_some_device_has(
            steps in prop::collection::vec((any::<bool>(), 0_u32..3, 0_u8..3, 30_u8..33), 0..40),
        ) {
            let (mut known, mut admission) = (Known::default(), admission());
            let mut model = std::collections::HashSet::new();
            for (adds, link, host, length) in steps {
                let address = address(link, &format!("10.0.0.{host}/{length}"));
                if adds {
                    model.insert(address);
                    known.add(address, &mut admission);
                } else {
                    model.remove(&address);
                    known.remove(address, &mut admission);
                }
                for host in 0..3 {
                    let ip = IpAddr::from([10, 0, 0, host]);
                    let expected = model.iter().any(|address| address.net.addr() == ip);
                    prop_assert_eq!(admission.is_local(ip), expected);
                }
            }
        }
    }

    #[test]
    fn a_flood_of_addresses_is_followed() {
        in_namespace("decap::local::tests::a_flood_of_addresses_is_followed_inside");
    }

    #[test]
    #[ignore = "run by a_flood_of_addresses_is_followed in a namespace of its own"]
    fn a_flood_of_addresses_is_followed_inside() {
        let mut admission = admission();
        let flood = |action: &str| {
            let lines: String = (0..3000)
                .map(|i| format!("addr {action} 10.9.{}.{}/32 dev lo\n", i / 250, i % 250))
                .collect();
            let file = std::env::temp_dir().join(format!("tunlb-flood-{}", std::process::id()));
            std::fs::write(&file, lines).unwrap();
            let ip = Command::new("ip").arg("-batch").arg(&file).spawn().unwrap();
            (ip, file)
        };
        let mut local = LocalAddresses::open(&mut admission, Instant::now()).unwrap();
        for (action, expected) in [("add", true), ("del", false)] {
            let (mut ip, file) = flood(action);
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut ended = false;
            loop {
                let now = Instant::now();
                local.again = local.again.or(Some(now)); // list again and again meanwhile
                local.refresh(&mut admission, now);
                let drained = local.follow(&mut admission, now).unwrap();
                if ended && drained == Drained::Empty {
                    break;
                }
                ended = ip.try_wait().unwrap().is_some();
                assert!(now < deadline, "ip -batch takes too long");
                thread::sleep(Duration::from_millis(1));
            }
            std::fs::remove_file(file).unwrap();
            for i in [0, 1499, 2999] {
                let ip = IpAddr::from([
                    10,
                    9,
                    u8::try_from(i / 250).unwrap(),
                    u8::try_from(i % 250).unwrap(),
                ]);
                assert_eq!(admission.is_local(ip), expected, "{action} {ip}");
            }
        }
    }
}
