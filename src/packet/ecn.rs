//! Explicit congestion notification through a tunnel (RFC 6040): what the outer header gets, and what
//! the inner one keeps.

/// The ECN field: the low two bits of TOS or traffic class (RFC 3168 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// Not capable.
    NotEct = 0b00,
    /// Capable, codepoint 1.
    Ect1 = 0b01,
    /// Capable, codepoint 0.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// The field of a TOS or traffic class octet.
    #[must_use]
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The octet with its ECN field replaced; the DSCP is kept.
    #[must_use]
    pub const fn in_traffic_class(self, traffic_class: u8) -> u8 {
        (traffic_class & !0b11) | self as u8
    }
}

/// The outer field at encapsulation in normal mode: a copy (RFC 6040 §4.1).
#[must_use]
pub const fn encapsulate(inner: Ecn) -> Ecn {
    inner
}

/// The forwarded field at decapsulation (RFC 6040 §4.2, figure 4); `None`: drop the packet, since
/// congestion was marked for a transport that cannot hear of it.
#[must_use]
pub const fn decapsulate(outer: Ecn, inner: Ecn) -> Option<Ecn> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => None,
        (Ecn::NotEct, _) => Some(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Some(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Some(Ecn::Ect1),
        (Ecn::Ect0 | Ecn::Ect1, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040 figure 4, line by line: the inner field, then the result for each outer field in the
    /// order Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn decapsulation_follows_the_table() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, results) in table {
            for (outer, result) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(results) {
                assert_eq!(
                    decapsulate(outer, inner),
                    result,
                    "{outer:?} over {inner:?}"
                );
            }
        }
    }

    #[test]
    fn encapsulation_copies() {
        for bits in 0..4 {
            assert_eq!(encapsulate(Ecn::of(bits)), Ecn::of(bits));
        }
    }

    #[test]
    fn the_dscp_is_kept() {
        assert_eq!(Ecn::of(0xb9), Ecn::Ect1);
        assert_eq!(Ecn::Ce.in_traffic_class(0xb9), 0xbb);
        assert_eq!(Ecn::NotEct.in_traffic_class(0xff), 0xfc);
    }
}
