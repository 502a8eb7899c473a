//! Any bytes as a bundle, or as the facts in one: judged in both languages, and every line that is printed
//! is printable; a command read again from its line has the same words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb::doctor::{Facts, Lang, Selection, bundle, judge};
use tunlb_fuzz::printed;

fuzz_target!(|data: &[u8]| {
    // A fuzzer does not find its way through the compression, so most inputs are the facts alone.
    let facts = match serde_json::from_slice::<Facts>(data) {
        Ok(facts) => match bundle::write(&facts, &[]) {
            Ok(bytes) => bundle::read(&bytes).ok(),
            Err(_) => None,
        },
        Err(_) => bundle::read(data).ok(),
    };
    let Some(facts) = facts else { return };
    for lang in [Lang::En, Lang::Zh] {
        printed(&judge(&facts, &Selection::default(), lang), lang);
    }
});
