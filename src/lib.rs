//! tunlb: a tunnel-aware layer-4 load balancer in userspace.
//!
//! Packets for a virtual IP are routed into a TUN device; the director picks a backend by
//! consistent hash and sends the untouched packet to it inside an IP-in-IP tunnel. The backend
//! decapsulates and answers the client directly.
//!
//! The layers, lowest first; each uses only those before it (`tests/layers.rs` holds them to it):
//!
//! - [`text`]: text of others on its way to a terminal or a shell.
//! - [`packet`], [`probe`] and [`director`]: the sans-IO core. Bytes, a seed and `now` come in, values come out.
//! - [`config`]: a TOML file or flags become one validated [`config::Config`].
//! - [`io`]: TUN, egress, netlink, sysctls. Knows packets, decides nothing about flows.
//! - [`decap`]: the backend's userspace decapsulator.
//! - [`doctor`]: gathers facts about a machine and judges them.
//! - [`site`]: a configuration and this host's routes become a snapshot.
//! - [`health`]: the thread that measures backends through their tunnels.
//! - [`control`]: the one owner of what a running director runs by.
//! - [`api`]: what a running director tells others, and takes from them.
//! - [`client`]: the other end of it: what commands ask a running director.
//! - [`daemon`]: the director's threads; the only place that joins `io` to `director`.
//! - [`cli`]: one file per subcommand; the only place that prints.
//!
//! `docs/packet-flow.md` follows one packet through the files in reading order.

#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod daemon;
pub mod decap;
pub mod director;
pub mod doctor;
pub mod health;
pub mod io;
pub mod packet;
pub mod probe;
pub mod site;
pub mod text;
