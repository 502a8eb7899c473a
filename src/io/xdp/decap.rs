//! Tunnel packets taken out of their tunnels in the driver, by `bpf/tunlb_decap.bpf.c`.
//!
//! The program takes out what is admitted and plain, and leaves everything else to sockets.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use aya::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;

use super::map::{device, map, map_error};
use super::{AttachError, Attached, Hook, MapFailure, attach, load, load_program, program};
use crate::io::netlink::Link;

const PROGRAM: &str = "tunlb_decap";
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tunlb_decap.bpf.o"));

/// As `struct address`: IPv4 as `::ffff:a.b.c.d`.
type Key = [u8; 16];

/// As `struct network` behind its length.
type Source = [u8; 17];

/// The program on one device; dropping it detaches it.
pub struct DecapProgram {
    _object: Ebpf,
    local: HashMap<MapData, Key, u8>,
    /// What `local` holds.
    known: BTreeSet<IpAddr>,
    taken_out: PerCpuArray<MapData, u64>,
    attached: Attached,
}

/// What is taken out.
#[derive(Debug, Clone, Copy)]
pub struct Admitted<'a> {
    /// Inner destinations.
    pub vips: &'a [IpAddr],
    /// Outer sources; none: any.
    pub directors: &'a [IpNet],
    /// GUE to that port, and not IP in IP.
    pub gue: Option<NonZeroU16>,
}

impl fmt::Debug for DecapProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DecapProgram").field(&self.attached).finish()
    }
}

impl DecapProgram {
    /// Attaches the program to a device. As long as it knows no address of this machine, it takes nothing out.
    ///
    /// # Errors
    /// Any [`MapFailure`].
    pub fn start(name: &str, admitted: Admitted<'_>, hooks: &[Hook]) -> Result<Self, MapFailure> {
        let link = device(name)?;
        let mut object = load_for(&link, admitted)?;
        let mut vips: HashMap<_, Key, u8> = map(&mut object, "vips", HashMap::try_from)?;
        for vip in admitted.vips {
            let set = vips.insert(key(*vip), 1, 0);
            set.map_err(|cause| map_error("vips", cause))?;
        }
        let mut sources: LpmTrie<_, Source, u8> = map(&mut object, "directors", LpmTrie::try_from)?;
        for network in networks(admitted.directors) {
            let set = sources.insert(&source(network), 1, 0);
            set.map_err(|cause| map_error("directors", cause))?;
        }
        let local = map(&mut object, "local", HashMap::try_from)?;
        let taken_out = map(&mut object, "taken_out", PerCpuArray::try_from)?;
        load_program(&mut object, PROGRAM)?;
        let attached = attach(program(&mut object, PROGRAM)?, name, hooks)?;
        Ok(Self {
            _object: object,
            local,
            known: BTreeSet::new(),
            taken_out,
            attached,
        })
    }

    /// Where it runs.
    #[must_use]
    pub const fn attached(&self) -> &Attached {
        &self.attached
    }

    /// These are the addresses of this machine from now on.
    ///
    /// # Errors
    /// [`MapFailure::Map`]; it then knows some of the addresses.
    pub fn set_local(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), MapFailure> {
        for &address in addresses.difference(&self.known) {
            self.local
                .insert(key(address), 1, 0)
                .map_err(|cause| map_error("local", cause))?;
        }
        for address in self.known.difference(addresses) {
            let removed = self.local.remove(&key(*address));
            removed.map_err(|cause| map_error("local", cause))?;
        }
        self.known.clone_from(addresses);
        Ok(())
    }

    /// Packets that it has taken out.
    ///
    /// # Errors
    /// [`MapFailure::Map`].
    pub fn taken_out(&self) -> Result<u64, MapFailure> {
        let counts = self.taken_out.get(&0, 0);
        let counts = counts.map_err(|cause| map_error("taken_out", cause))?;
        Ok(counts.iter().sum())
    }

    /// What the program says of a frame (BPF_PROG_TEST_RUN), and the frame that it leaves.
    #[cfg(test)]
    pub(crate) fn run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        use aya::programs::{TestRun as _, TestRunOptions, Xdp};
        let mut left = vec![0; frame.len()];
        let program: &Xdp = self._object.program(PROGRAM).unwrap().try_into().unwrap();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut left),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).unwrap();
        left.truncate(result.data_size_out as usize);
        (result.return_value, left)
    }
}

fn load_for(link: &Link, admitted: Admitted<'_>) -> Result<Ebpf, MapFailure> {
    let not_ethernet = || AttachError::NotEthernet(link.name.clone());
    let mac = link.mac.ok_or_else(not_ethernet)?;
    let port = admitted.gue.map_or(0, NonZeroU16::get).to_be_bytes();
    let entries = |number: usize| u32::try_from(number.max(2)).unwrap_or(u32::MAX);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("device_address", &mac.0, true)
        .override_global("gue_port", &port, true)
        .map_max_entries("vips", entries(admitted.vips.len()))
        .map_max_entries("directors", entries(admitted.directors.len()));
    Ok(load(&mut loader, OBJECT)?)
}

/// Those of the directors, or all.
fn networks(directors: &[IpNet]) -> Vec<IpNet> {
    if !directors.is_empty() {
        return directors.to_vec();
    }
    let any = |address: IpAddr| IpNet::new(address, 0).ok();
    let unspecified = [[0; 4].into(), Ipv6Addr::UNSPECIFIED.into()];
    unspecified.into_iter().filter_map(any).collect()
}

fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn source(network: IpNet) -> Prefix<Source> {
    let mut source = Source::default();
    match network.network() {
        IpAddr::V4(address) => {
            source[0] = 4;
            source[1..5].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            source[0] = 6;
            source[1..].copy_from_slice(&address.octets());
        }
    }
    Prefix::new(8 + u32::from(network.prefix_len()), source)
}
