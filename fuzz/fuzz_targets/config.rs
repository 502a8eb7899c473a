//! Any text as a configuration file: a valid configuration, or problems that name themselves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb::config::Config;

fuzz_target!(|text: &str| {
    match Config::parse("fuzz.toml", text) {
        Ok(config) => {
            assert!(!config.vips.is_empty());
            drop(config.warnings());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
