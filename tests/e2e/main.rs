//! End to end: the `tunlb` binary on real kernels' TCP and UDP, in network namespaces.
//!
//! Every test runs its own test binary again inside new namespaces ([`enter`]), so tests run side by
//! side, need no root where user namespaces are allowed, and leave nothing behind even when killed.
//! Inside, a [`lab`] makes hosts and cables, a [`site`] is the usual topology with its services.
//! Nothing sleeps to wait for something: conditions are polled with a deadline.

mod api;
mod balance;
mod capture;
mod checksums;
mod client;
mod converge;
mod decap;
mod doctor;
mod doctor_fix;
mod doctor_watch;
mod egress;
mod enter;
mod families;
mod firewall;
mod flood;
mod forged;
mod forwarding;
mod fragmentation;
mod fragments;
mod health;
mod health_ways;
mod hostile;
#[cfg(feature = "https")]
mod https;
mod icmp;
mod lab;
mod leftovers;
mod logging;
mod metrics;
mod mtu;
mod neighbour;
mod operator;
mod probe;
mod process;
mod readme;
mod refusals;
mod reload;
mod reloading;
mod restart;
mod service_manager;
mod signals;
mod site;
mod slow_files;
mod strays;
mod streams;
mod totals;
mod traffic;
mod undo;
mod unprivileged;
mod wire;
mod workers;
#[cfg(feature = "xdp")]
mod xsk;
