//! A stream of any packets at any times: every packet is accounted for, bounds hold, and whatever is
//! forwarded is a packet with an outer header of its own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tunlb_fuzz::{Site, Stream, drive};

fuzz_target!(|data: &[u8]| drive(&mut Site::default(), Stream(data)));
