//! What a running director tells others, and takes from them: HTTP over a unix socket.

pub mod metrics;
pub mod model;
pub mod page;
pub mod requests;
