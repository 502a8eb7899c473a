//! Any text as a configuration file: a valid configuration, or problems that name themselves, as many as
//! can be read, in printable lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb::config::{Config, ConfigError, KEPT};
use tunlb::text::plain::is_plain;

fuzz_target!(|text: &str| {
    match Config::parse("fuzz.toml", text) {
        Ok(config) => {
            assert!(!config.vips.is_empty());
            assert!(config.vips.iter().all(|vip| is_plain(&vip.name)));
            assert!(is_plain(&config.director.tun));
            drop(config.warnings());
        }
        Err(ConfigError::Invalid(problems)) => {
            let shown = problems.first().len();
            assert_eq!(shown, problems.total().min(KEPT));
            assert!(problems.total() > 0);
            assert!(problems.to_string().split('\n').all(is_plain), "{problems}");
        }
        Err(error) => panic!("{error}"),
    }
});
