//! What tunlb prints at its end, read back from the text.

use std::collections::BTreeMap;

/// The totals of a director.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// By VIP's name and backend's address.
    pub(crate) backends: BTreeMap<(String, String), Traffic>,
    /// What went to backends that left while the director ran.
    pub(crate) left: Traffic,
    /// Packets that the director answered itself.
    pub(crate) answered: u64,
    /// Packets for which the ring alone chose the backend, beyond a VIP's limit of new flows.
    pub(crate) untracked: u64,
    /// ICMP errors about the paths to backends that were not believed.
    pub(crate) refused_path_errors: u64,
    /// By reason; reasons that did not occur are absent.
    pub(crate) dropped: BTreeMap<String, u64>,
}

/// What went to a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Totals {
    /// Panics on a line that it does not know.
    pub(crate) fn parse(text: &str) -> Self {
        let mut totals = Self::default();
        let mut vip = String::new();
        for line in text.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["vip", name] => name.clone_into(&mut vip),
                ["backend", address, ref traffic @ ..] => {
                    let backend = (vip.clone(), address.to_owned());
                    let traffic = totals.traffic(traffic);
                    totals.backends.insert(backend, traffic);
                }
                ["backends", "that", "left", ref traffic @ ..] => {
                    totals.left = totals.traffic(traffic);
                }
                ["answered", packets] => totals.answered = number(packets),
                ["refused", errors, "path", "MTU", "errors"] => {
                    totals.refused_path_errors = number(errors);
                }
                ["dropped", "nothing"] => {}
                ["dropped", ..] => totals.dropped = reasons(&line["dropped".len()..]),
                _ => panic!("unknown line in the totals: {line:?}\n{text}"),
            }
        }
        totals
    }

    /// `N packets N bytes`, and `N untracked`, which it adds up.
    fn traffic(&mut self, words: &[&str]) -> Traffic {
        let (packets, bytes) = match *words {
            [packets, "packets", bytes, "bytes"] => (packets, bytes),
            [packets, "packets", bytes, "bytes", untracked, "untracked"] => {
                self.untracked += number(untracked);
                (packets, bytes)
            }
            _ => panic!("not packets and bytes in the totals: {words:?}"),
        };
        Traffic {
            packets: number(packets),
            bytes: number(bytes),
        }
    }

    /// All packets and bytes that went to backends.
    pub(crate) fn sent(&self) -> Traffic {
        let all = self.backends.values().chain([&self.left]);
        Traffic {
            packets: all.clone().map(|traffic| traffic.packets).sum(),
            bytes: all.map(|traffic| traffic.bytes).sum(),
        }
    }

    /// All dropped packets.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Backends that got packets of a VIP.
    pub(crate) fn busy(&self, vip: &str) -> usize {
        let busy = |((name, _), traffic): &(&(String, String), &Traffic)| {
            name == vip && traffic.packets > 0
        };
        self.backends.iter().filter(busy).count()
    }
}

/// `reason N`, separated by commas or spaces.
fn reasons(text: &str) -> BTreeMap<String, u64> {
    let words: Vec<_> = text
        .split([',', ' '])
        .filter(|word| !word.is_empty())
        .collect();
    words
        .chunks(2)
        .map(|pair| (pair[0].to_owned(), number(pair[1])))
        .collect()
}

/// The totals of a decapsulator: a number for each word.
pub(crate) fn of_decap(text: &str) -> BTreeMap<String, u64> {
    reasons(text.trim())
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("not a number in the totals: {text:?}"))
}

#[test]
fn totals_are_read_back() {
    let text = "vip web\n  backend 10.0.1.11   7 packets  420 bytes  2 untracked\n\
                backends that left   1 packets  40 bytes  1 untracked\n\
                dropped no_vip 3, malformed 1\n";
    let totals = Totals::parse(text);
    assert_eq!(
        totals.sent(),
        Traffic {
            packets: 8,
            bytes: 460
        }
    );
    assert_eq!(totals.untracked, 3);
    assert_eq!((totals.dropped["no_vip"], totals.dropped()), (3, 4));
    assert_eq!(of_decap("received 3 injected 2 malformed 1")["injected"], 2);
}
