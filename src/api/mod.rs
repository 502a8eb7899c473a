//! What a running director tells others, and takes from them: HTTP over a unix socket.

pub mod flows;
pub mod model;
