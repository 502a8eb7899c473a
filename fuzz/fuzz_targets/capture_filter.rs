//! Any text as a capture filter: a filter that selects by its terms alone, or an error of printable, short
//! text that says what may be written.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tunlb::config::Config;
use tunlb::daemon::{Destination, Filter};
use tunlb::director::DropReason;
use tunlb::text::plain::plain;

const SITE: &str = include_str!("../corpus/config/vectors.toml");

static CONFIG: LazyLock<Config> = LazyLock::new(|| Config::parse("site.toml", SITE).expect("a valid site"));

fuzz_target!(|text: &str| {
    let terms: Vec<_> = text.split(',').map(str::to_owned).collect();
    match Filter::parse(&terms, &CONFIG) {
        Ok(filter) => select(&filter),
        Err(error) => {
            let message = error.to_string();
            assert_eq!(plain(&message), message);
            assert!(message.len() < 5000 && message.contains("capture filter \""), "{message}");
            assert!(message.contains("accepted: ") || message.contains("write "), "{message}");
        }
    }
});

/// What is selected without a drop is selected by no `drop=` term; a reason more never selects less.
fn select(filter: &Filter) {
    for vip in &CONFIG.vips {
        for backend in &vip.backends {
            let destination = Destination {
                address: Some(vip.address),
                vip: Some(&vip.name),
                backend: Some(backend.address),
            };
            let forwarded = filter.selects(&destination, None);
            for reason in DropReason::ALL {
                assert!(!forwarded || filter.selects(&destination, Some(reason)));
            }
        }
    }
    let _ = filter.selects(&Destination::default(), Some(DropReason::Malformed));
}
