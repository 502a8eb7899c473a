//! What a running director tells others, and takes from them: HTTP/1.1 over a unix socket, and for metrics over TCP.
//!
//! The way of a request: [`server`] takes the connection, `connections` bounds it, [`route`] finds what is asked for,
//! `answer` does it. Reads are made from control's view (`status`, `rates`, `shares`, `events`, `liveness`,
//! [`metrics`]); changes (`change`) are asked of control. [`socket`] has the rule by which clients find the socket,
//! [`model`] the documents.

mod answer;
mod body;
mod change;
mod connections;
#[cfg(test)]
mod described;
mod events;
pub mod flows;
mod liveness;
pub mod losses;
mod measured;
pub mod metrics;
pub mod model;
mod numbers;
mod overrides;
mod packets;
pub mod page;
mod patience;
mod problem;
mod query;
mod rates;
pub mod requests;
pub mod route;
pub mod server;
mod shares;
pub mod socket;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use server::ApiServer;
pub use socket::default_path;
