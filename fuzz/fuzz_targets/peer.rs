//! Any text as what the other end's doctor printed: merged with one's own findings, and every line that is
//! printed is printable; a command read again from its line has the same words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb::doctor::facts::Role;
use tunlb::doctor::finding::{Diagnosis, SCHEMA, Verdict};
use tunlb::doctor::report::json::Document;
use tunlb::doctor::{Lang, Status, peer};
use tunlb_fuzz::printed;

fuzz_target!(|data: &[u8]| {
    let document = match Document::parse(data) {
        Ok(document) => document,
        Err(error) => {
            assert!(
                tunlb::text::plain::is_plain(&error.to_string()),
                "{error:?}"
            );
            return;
        }
    };
    for other in document.diagnoses() {
        let role = match other.role {
            Role::Backend => Role::Director,
            Role::Director => Role::Backend,
        };
        let own = Diagnosis {
            schema: SCHEMA,
            role,
            vip: None,
            client: None,
            verdict: Verdict {
                status: Status::Pass,
                code: None,
                summary: String::new(),
            },
            path: Vec::new(),
            checks: Vec::new(),
        };
        printed(&[peer::merge(own, other.clone(), Lang::En)], Lang::En);
    }
});
