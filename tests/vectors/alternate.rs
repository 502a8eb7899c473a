//! Flows whose packets come now by the driver and now by the TUN, to either of two workers, while backends drain, are
//! disabled, fail, return and go, and services change: each flow stays with its backend as long as that takes
//! it, whichever path its next packet takes and however far each path has come with the latest snapshot.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tunlb::config::Config;
use tunlb::daemon::pipeline::MemoryPipeline;
use tunlb::daemon::xdp::Driver;
use tunlb::director::{Counters, Director, Health, Roster, Seat, Snapshot, Takes, Timestamp};
use tunlb::io::netlink::Netlink;
use tunlb::io::xdp::layout::Port;
use tunlb::packet::{FlowKey, Packet};
use tunlb::site::Paths;

use crate::core::decide;
use crate::differential::Random;
use crate::driver::{LINK_HEADER, WAY_OUT, frame, in_namespace, run, sh};
use crate::wire::{TCP, UDP, to};

const ROUNDS: usize = 300;
const PACKETS_PER_ROUND: usize = 60;
const FLOWS: usize = 400;
const ACK: u8 = 16;

/// A site with these states of the backends, and perhaps a VIP for one port beside the one for any.
fn site(random: &mut Random) -> Config {
    let mut backends = Vec::new();
    for last in 11..17 {
        let state = match random.below(6) {
            0 => "draining",
            1 => "disabled",
            2 => continue, // not configured
            _ => "active",
        };
        backends.push(format!(
            "{{ address = \"10.0.1.{last}\", state = \"{state}\" }}"
        ));
    }
    backends.push("{ address = \"10.0.1.20\" }".to_owned());
    let backends = backends.join(", ");
    let vip = |name, port| {
        format!(
            "[[vip]]\nname = \"{name}\"\naddress = \"203.0.113.10\"\nport = {port}\nprotocol = \"udp\"\n\
             backend = [{backends}]\n"
        )
    };
    let mut text = "[director]\nhash_key = \"000102030405060708090a0b0c0d0e0f\"\nring_size = 251\n\
                    encap.source = [\"10.0.0.2\", \"2001:db8:e::2\"]\n"
        .to_owned();
    let tcp = vip("tcp", "80").replace("udp", "tcp");
    let mut vips = vec![tcp, vip("any", "\"any\"")];
    if random.below(2) == 0 {
        vips.insert(random.below(3), vip("one port", "53"));
    }
    text += &vips.concat();
    Config::parse("site.toml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What decides.
struct Site {
    workers: Vec<MemoryPipeline>,
    driver: Driver,
    /// What each worker has come to, and the driver.
    snapshots: Vec<Arc<Snapshot>>,
}

impl Site {
    fn new(snapshot: &Arc<Snapshot>) -> Self {
        let mut driver = Driver::load(snapshot, 2, Timestamp::START).unwrap();
        let way_out = Netlink::open().unwrap().link("v0").unwrap().unwrap();
        let lo = Port {
            index: 1,
            address: [0; 6],
            redirects: false,
        };
        driver.fill.set_ports(vec![lo], &[way_out.index]).unwrap();
        let worker = |worker| {
            let seat = Seat {
                worker,
                workers: 2,
                seed: [1, 2, 3, 4],
            };
            let mut director = Director::new(Arc::clone(snapshot), &seat);
            director.share_flows(Box::new(driver.flows().unwrap()), &seat, driver.cpus());
            MemoryPipeline::in_memory(director)
        };
        Self {
            workers: vec![worker(0), worker(1)],
            driver,
            snapshots: vec![Arc::clone(snapshot); 3],
        }
    }

    /// The next of those who lag behind comes to the latest snapshot; the driver after the workers.
    fn catch_up(&mut self, latest: &Arc<Snapshot>) {
        let behind = |snapshot: &Arc<Snapshot>| !Arc::ptr_eq(snapshot, latest);
        let Some(next) = self.snapshots.iter().position(behind) else {
            return;
        };
        match self.workers.get_mut(next) {
            Some(worker) => worker.adopt(Arc::clone(latest), 1500),
            None => self.driver.fill.apply(latest, Timestamp::START).unwrap(),
        }
        self.snapshots[next] = Arc::clone(latest);
    }

    /// The backend that a packet goes to, and whether the driver sent it there.
    fn send(&mut self, random: &mut Random, plain: &[u8], odd: &[u8]) -> (Option<IpAddr>, bool) {
        let mut packet = odd;
        if random.below(2) == 0 {
            let (verdict, left) = run(&self.driver, &frame(plain));
            if verdict == 4 {
                let outer = &left[LINK_HEADER..];
                let address: [u8; 4] = outer[16..20].try_into().unwrap();
                return (Some(Ipv4Addr::from(address).into()), true);
            }
            assert_ne!(verdict, 0, "aborted");
            if verdict == 1 {
                return (None, true);
            }
            packet = plain;
        }
        let worker = random.below(2);
        let seen = decide(&mut self.workers[worker], packet, Duration::ZERO);
        (seen.backend, false)
    }

    /// Whether each path, as far as it has come, leaves a flow with that backend.
    fn all_keep(&self, flow: &FlowKey, address: IpAddr) -> bool {
        self.snapshots.iter().all(|snapshot| {
            let vip = snapshot.find_vip(flow).unwrap();
            snapshot.backends_at(address).any(|(_, backend)| {
                snapshot.vip(backend.vip).service == vip.service && backend.takes != Takes::Nothing
            })
        })
    }
}

fn packet(random: &mut Random, number: usize, options: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    let ip = to("203.0.113.10").options(options);
    if number.is_multiple_of(2) {
        let mut tcp = vec![
            high, low, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, ACK, 1, 0, 0, 0, 0, 0,
        ];
        tcp.extend(random.bytes(3));
        return ip.carrying(TCP, &tcp);
    }
    let port = [53, 54, 80][number % 3];
    ip.carrying(UDP, &[high, low, 0, port, 0, 8, 0, 0])
}

#[test]
fn flows_keep_their_backends_on_both_paths() {
    in_namespace("alternate::both_paths");
}

#[test]
#[ignore = "in a network namespace"]
fn both_paths() {
    sh(WAY_OUT);
    let mut random = Random(7);
    let mut roster = Roster::default();
    roster.attach(Arc::new(Counters::new(0))); // which never adopts, so that no index is given anew
    let mut health = HashMap::<IpAddr, bool>::new();
    let mut build = |random: &mut Random| {
        let config = site(random);
        for last in 11..17 {
            health.insert([10, 0, 1, last].into(), random.below(5) > 0);
        }
        let measured = |_: &_, address| match health.get(&address) {
            Some(false) => Health::Unhealthy,
            _ => Health::Healthy,
        };
        let paths = Paths::without_routes(&config);
        Arc::new(paths.snapshot(&config, &mut roster, measured).unwrap())
    };
    let mut latest = build(&mut random);
    let mut site = Site::new(&latest);
    let mut with = HashMap::<usize, IpAddr>::new();
    let (mut kept, mut moved, mut by_driver) = (0_u32, 0_u32, 0_u32);
    for _ in 0..ROUNDS {
        latest = build(&mut random);
        for _ in 0..PACKETS_PER_ROUND {
            if random.below(12) == 0 {
                site.catch_up(&latest);
            }
            let number = 1 + random.below(FLOWS);
            let plain = packet(&mut random, number, &[]);
            let odd = packet(&mut random, number, &[1, 1, 1, 1]);
            let flow = Packet::parse(&plain).unwrap().flow().unwrap();
            let (backend, driven) = site.send(&mut random, &plain, &odd);
            by_driver += u32::from(driven);
            let backend = backend.expect("10.0.1.20 takes all");
            match with.insert(number, backend) {
                Some(before) if before == backend => kept += 1,
                Some(before) => {
                    let keeps = site.all_keep(&flow, before);
                    assert!(!keeps, "{flow}: {before} -> {backend}, driver {driven}");
                    moved += 1;
                }
                None => {}
            }
        }
    }
    assert!(
        kept > 5000 && moved > 100 && by_driver > 5000,
        "{kept} {moved} {by_driver}"
    );
}
