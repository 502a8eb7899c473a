//! The doctor: why the packet reaches the backend and the client gets no answer.
//!
//! Three steps, each of which can be looked at alone:
//!
//! 1. `gather`: one read-only look at the machine becomes [`Facts`], which serialise (a bundle is
//!    nothing else);
//! 2. `judge`: pure functions over the facts; each row of the tables of failure modes is a check;
//! 3. `report`: findings as text or JSON.
//!
//! What a finding names as its mend, `fix` runs where the user asks for it.
//!
//! What could not be seen is [`Observed::Unseen`] in the facts, and makes a check unknown, never pass.

pub mod bundle;
pub mod catalogue;
pub mod departure;
pub mod facts;
pub mod finding;
pub mod firewall;
pub mod fix;
pub mod gather;
mod json_error;
pub mod judge;
pub mod lang;
pub mod lines;
pub mod peer;
pub mod report;
pub mod watch;

pub use facts::{Facts, Observed, Target};
pub use finding::{Code, Diagnosis, Finding, Status};
pub use judge::{Selection, judge};
pub use lang::Lang;
