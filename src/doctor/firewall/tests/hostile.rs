//! Texts that are no rulesets, and rulesets that are made to take long.

use super::*;

#[test]
fn texts_of_other_programs_are_refused() {
    for text in ["[]", "{", "hello", r#"{"nftables": {}}"#] {
        assert!(nft::read(text, &Room::new()).is_err(), "{text}");
    }
    for text in ["hello", "-A INPUT -j DROP", "*filter\nhello", "*filter\n-A"] {
        let error = iptables::read("iptables-save", text, &Room::new()).unwrap_err();
        assert_eq!(error.program, "iptables", "{text}");
    }
}

#[test]
fn doubt_that_decides_nothing_is_none() {
    let rules = |rules: &str| legacy(&format!("*filter\n:INPUT DROP [0:0]\n{rules}\nCOMMIT\n"));
    for (text, expected) in [
        ("-A INPUT -m u32 --u32 x -j DROP", "drop: policy DROP"),
        (
            "-A INPUT -m u32 --u32 x -j ACCEPT\n-A INPUT -j ACCEPT",
            "accept",
        ),
        (
            "-A INPUT -p tcp -m u32 --u32 x -j ACCEPT",
            "drop: policy DROP",
        ),
        (
            "-A INPUT -m u32 --u32 x -j LOG\n-A INPUT -p 4 -j ACCEPT",
            "accept",
        ),
        (
            "-A INPUT -m u32 --u32 x -j RETURN\n-A INPUT -p 4 -j ACCEPT",
            "unknown: -A INPUT -m u32 --u32 x -j RETURN",
        ),
        (
            "-A X -j ACCEPT\n-A INPUT -m u32 --u32 x -j X",
            "unknown: -A INPUT -m u32 --u32 x -j X",
        ),
        (
            "-A X -m u32 --u32 y\n-A INPUT -m u32 --u32 x -j X\n-A INPUT -j ACCEPT",
            "accept",
        ),
        ("-A INPUT -j NFQUEUE", "unknown: -A INPUT -j NFQUEUE"),
        ("-A INPUT -p 4 -j FOO", "unknown: -A INPUT -p 4 -j FOO"),
        ("-A INPUT -p tcp -j FOO", "drop: policy DROP"),
        ("-A INPUT -j INPUT", "unknown: -A INPUT -j INPUT"),
    ] {
        expect(&rules(text), &outer(), expected);
    }
}

fn ruleset(objects: &str) -> String {
    format!(
        "{{\"nftables\":[{{\"chain\":{{\"family\":\"inet\",\"table\":\"f\",\"name\":\"in\",\
         \"type\":\"filter\",\"hook\":\"input\",\"prio\":0,\"policy\":\"accept\"}}}},{objects}]}}"
    )
}

fn in_chain(statements: &str) -> String {
    format!(
        "{{\"rule\":{{\"family\":\"inet\",\"table\":\"f\",\"chain\":\"in\",\"expr\":[{statements}]}}}}"
    )
}

/// Rules share the elements of a named set; elsewhere there is a bound.
#[test]
fn rulesets_have_bounds() {
    let elements = vec!["\"192.0.2.1\""; 100_000].join(",");
    let set = format!(
        "{{\"set\":{{\"family\":\"inet\",\"table\":\"f\",\"name\":\"s\",\"elem\":[{elements}]}}}}"
    );
    let one = in_chain(
        "{\"match\":{\"op\":\"==\",\"left\":{\"payload\":{\"protocol\":\"ip\",\"field\":\"saddr\"}},\
         \"right\":\"@s\"}},{\"drop\":null}",
    );
    let shared = ruleset(&format!("{set},{}", vec![one.as_str(); 300].join(",")));
    let tables = nft::read(&shared, &Room::new()).unwrap();
    let walk::Walked { verdict, work, .. } = walk::walk(&tables, &inner(), Machine::default());
    assert!(work <= 8_200_000, "{work}");
    assert!(
        matches!(verdict, FilterVerdict::Unknown(_)),
        "300 rules of 100,000 elements"
    );
    let few = Room::new();
    assert!(few.take(Room::MOST_PARTS - 1000));
    for (what, read) in [
        ("a set", nft::read(&shared, &few).is_err()),
        (
            "rules",
            nft::read(&ruleset(&vec![in_chain(""); 500].join(",")), &few).is_err(),
        ),
        (
            "lines",
            iptables::read(
                "iptables-save",
                &format!("*f\n{}", "-A I -j X\n".repeat(500)),
                &few,
            )
            .is_err(),
        ),
    ] {
        assert!(read, "{what}");
    }
    let long = in_chain(&format!("{{\"comment\":\"{}\"}}", "x".repeat(2 << 20)));
    let error = nft::read(&ruleset(&long), &Room::new()).unwrap_err();
    assert!(error.what.contains("1048576 are read"), "{error}");
    let line = format!("*f\n-A I -m comment --comment {}\n", "x".repeat(70_000));
    let error = iptables::read("iptables-save", &line, &Room::new()).unwrap_err();
    assert_eq!(error.what, "line 2 has more than 65536 bytes");
}

/// Many VIPs and many rules are given up in the end.
#[test]
fn work_has_an_end() {
    let rules = "-A INPUT -s 192.0.2.1 -j DROP\n".repeat(50_000);
    let firewall = legacy(&format!("*filter\n:INPUT ACCEPT [0:0]\n{rules}"));
    expect(&firewall, &inner(), "accept");
    firewall.work.add(100_000_000);
    let FilterVerdict::NotSeen(why) = firewall.judge(&inner()) else {
        panic!("judged");
    };
    assert!(why.contains("too many rules"), "{why}");
    assert!(firewall.rules_naming_protocol(4).is_empty());
}

#[test]
fn long_rules_are_cut_where_they_are_quoted() {
    let rule = format!("-A INPUT -m u32 --u32 {} -j DROP", "é".repeat(5000));
    let FilterVerdict::Unknown(quoted) =
        legacy(&format!("*filter\n:INPUT ACCEPT [0:0]\n{rule}\n")).judge(&inner())
    else {
        panic!("judged");
    };
    assert!(quoted.rule.len() < 4200 && quoted.rule.ends_with("é …"));
}

/// Cascades of jumps are cut off, not walked for hours.
#[test]
fn cascades_end() {
    let mut text = "*filter\n:INPUT DROP [0:0]\n-A INPUT -j c0\n".to_owned();
    for chain in 0..30 {
        for _ in 0..8 {
            text += &format!("-A c{chain} -j c{}\n", chain + 1);
        }
    }
    text += "-A c30 -s 1.2.3.4 -j ACCEPT\n";
    assert!(matches!(
        legacy(&text).judge(&outer()),
        FilterVerdict::Unknown(_)
    ));
}

proptest::proptest! {
    /// Rules cut anywhere and put together anew neither stop the readers nor the walk.
    #[test]
    fn nothing_panics(parts in proptest::collection::vec((0..10_000_usize, 0..200_usize), 1..20)) {
        for whole in [fixture!("firewalld.json"), fixture!("rpfilter.legacy"), fixture!("ufw.legacy")] {
            let piece = |(from, length): &(usize, usize)| {
                whole.get(from % whole.len()..(from % whole.len() + length).min(whole.len()))
            };
            let cut: String = parts.iter().filter_map(piece).collect();
            drop(nft::read(&cut, &Room::new()));
            drop(iptables::read("iptables-save", &cut, &Room::new()));
            let rules = cut.lines().map(|line| format!("-A INPUT {line}\n"));
            let rules = format!("*filter\n:INPUT DROP [0:0]\n{}", rules.collect::<String>());
            drop(legacy(&rules).judge(&inner()));
        }
    }

    /// The same for JSON that is well-formed, but whose values are another's.
    #[test]
    fn no_json_panics(from in 0..1_000_usize, to in 0..1_000_usize) {
        for text in [fixture!("verdict-maps.json"), fixture!("firewalld.json"), fixture!("reverse-path.json")] {
            let mut json = serde_json::from_str(text).unwrap();
            let mut values = Vec::new();
            values_of(&json, &mut values);
            let value = values[from % values.len()].clone();
            let mut left = to % values.len();
            replace(&mut json, &mut left, &value);
            if let Ok(tables) = nft::read(&json.to_string(), &Room::new()) {
                drop(walk::walk(&tables, &inner(), Machine::default()));
            }
        }
    }
}

fn values_of(json: &serde_json::Value, all: &mut Vec<serde_json::Value>) {
    all.push(json.clone());
    for inner in json.as_array().into_iter().flatten() {
        values_of(inner, all);
    }
    for inner in json.as_object().into_iter().flat_map(|map| map.values()) {
        values_of(inner, all);
    }
}

/// Replaces the value that `values_of` finds after so many others.
fn replace(json: &mut serde_json::Value, left: &mut usize, with: &serde_json::Value) {
    if *left == 0 {
        *json = with.clone();
        *left = usize::MAX;
        return;
    }
    *left -= 1;
    for inner in json.as_array_mut().into_iter().flatten() {
        replace(inner, left, with);
    }
    for inner in json
        .as_object_mut()
        .into_iter()
        .flat_map(|map| map.values_mut())
    {
        replace(inner, left, with);
    }
}
