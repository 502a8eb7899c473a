//! Text of others on its way to a terminal or a shell: the lowest layer, pure.
//!
//! Names of devices, files and rules, texts of bundles and configurations are chosen by others. Whoever
//! prints one shows it by [`plain`]; whoever prints a command to be pasted builds it by [`shell`].

mod count;
pub mod json;
pub mod plain;
pub mod shell;
pub mod time;
pub mod version;

pub use count::count;
pub use plain::Plain;
