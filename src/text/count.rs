//! A number with its noun.

use std::fmt::Display;

/// Such as `1 backend` or `2 backends`; `noun` is one that takes an s.
pub fn count<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        let packets = [0_u64, 1, 2].map(|number| count(number, "packet"));
        assert_eq!(packets, ["0 packets", "1 packet", "2 packets"]);
        assert_eq!(count(1_usize, "VIP"), "1 VIP");
    }
}
