//! Reads `nft list chains` for what its JSON does not tell: the devices of chains at ingress and egress.

use std::collections::HashMap;

/// The devices of each chain, by family, table and name.
pub(super) type Devices = HashMap<(String, String, String), Vec<String>>;

/// What a listing tells of devices; lines that are none of nft's are passed over.
pub(super) fn devices(text: &str) -> Devices {
    let mut devices = Devices::new();
    let (mut table, mut chain) = (None, None);
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", family, name, "{"] => table = Some((*family, *name)),
            ["chain", name, "{"] => chain = Some(*name),
            ["type", _, "hook", "ingress" | "egress", rest @ ..] => {
                if let (Some((family, table)), Some(chain)) = (table, chain) {
                    let key = (family.to_owned(), table.to_owned(), chain.to_owned());
                    devices.insert(key, names(rest));
                }
            }
            _ => {}
        }
    }
    devices
}

/// `device "eth0" priority …`, `devices = { "eth0", "eth1" } priority …`
fn names(words: &[&str]) -> Vec<String> {
    let words = words.iter().take_while(|word| **word != "priority");
    let words = words.map(|word| word.trim_matches(|mark| "\",{}=".contains(mark)));
    words
        .filter(|word| !word.is_empty() && *word != "device" && *word != "devices")
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_chains() {
        let text = "table inet t {\n\tchain i {\n\t\ttype filter hook input priority filter; policy accept;\n\t}\n\
             \tchain g {\n\t\ttype filter hook ingress device \"e0\" priority filter; policy accept;\n\t}\n}\n\
             table netdev n {\n\tchain e {\n\t\ttype filter hook egress devices = { \"e0\", \"e1\" } priority 0;\n\t}\n}\n";
        let found = devices(text);
        let of = |key: [&str; 3]| found.get(&key.map(str::to_owned).into()).cloned();
        assert_eq!(of(["inet", "t", "g"]), Some(vec!["e0".to_owned()]));
        assert_eq!(
            of(["netdev", "n", "e"]),
            Some(vec!["e0".to_owned(), "e1".to_owned()])
        );
        assert_eq!(of(["inet", "t", "i"]), None);
        assert!(devices("chain { type } hook ingress\n}}{").is_empty());
    }
}
