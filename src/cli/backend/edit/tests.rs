//! Texts with headers, inline, indented, with the line ends of Windows.

use super::*;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 12));

/// As an operator writes it.
const FILE: &str = r#"# The directors of Berlin.
[director]
tun   = "tunlb7"  # not tunlb0, see ticket 4711

[[vip]]
name = "web" # shop
address = "203.0.113.10"
port = 443

# The old ones.
[[vip.backend]]
address = "10.0.1.11"
weight  =  100  # big

# About this rack:

# a new one
[[vip.backend]]
address = "10.0.1.12" # ticket 4712
# weight to come

[[vip]]
address = "203.0.113.11"

[[vip.backend]]
address = "10.0.1.12"
# the end
"#;

fn changed(weight: Option<u16>, state: Option<&'static str>) -> Wanted {
    Wanted::Changed { weight, state }
}

fn edit(text: &str, vip: &str, address: IpAddr, wanted: Wanted) -> Result<String, String> {
    edited("f.toml", text, vip, address, &wanted).map_err(|error| format!("{error:#}"))
}

/// Lines that are gone, with `-`, and that came, with `+`, where the rest is the same in the same order.
fn difference(before: &str, after: &str) -> Vec<String> {
    let (mut old, mut new) = (before.lines().peekable(), after.lines().peekable());
    let mut found = Vec::new();
    while let Some(line) = new.next() {
        if old.peek() == Some(&line) {
            old.next();
        } else if old.clone().skip(1).any(|later| later == line) && !after_has(&new, old.peek()) {
            while let Some(gone) = old.next_if(|gone| *gone != line) {
                found.push(format!("-{gone}"));
            }
            old.next();
        } else {
            found.push(format!("+{line}"));
        }
    }
    found.extend(old.map(|gone| format!("-{gone}")));
    found
}

fn after_has<'a>(rest: &(impl Iterator<Item = &'a str> + Clone), line: Option<&&str>) -> bool {
    line.is_some_and(|line| rest.clone().any(|later| later == *line))
}

#[test]
fn one_value_changes_and_its_comment_stays() {
    let address = "10.0.1.11".parse().unwrap();
    let after = edit(FILE, "web", address, changed(Some(50), None)).unwrap();
    assert_eq!(
        after,
        FILE.replace("weight  =  100  # big", "weight  =  50  # big")
    );
}

#[test]
fn a_key_that_is_new_comes_behind_the_others() {
    let after = edit(FILE, "web", ADDRESS, changed(Some(50), Some("draining"))).unwrap();
    let line = "address = \"10.0.1.12\" # ticket 4712\n";
    let more = format!("{line}weight = 50\nstate = \"draining\"\n");
    assert_eq!(after, FILE.replacen(line, &more, 1));
}

#[test]
fn a_vip_is_found_by_the_name_that_it_has_by_default() {
    let config = Config::parse("f.toml", FILE).unwrap();
    let wanted = changed(Some(5), None);
    let after = edit(FILE, &config.vips[1].name, ADDRESS, wanted).unwrap();
    let end = "address = \"10.0.1.12\"\n# the end\n";
    let more = "address = \"10.0.1.12\"\nweight = 5\n# the end\n";
    assert_eq!(after, FILE.replace(end, more));
}

#[test]
fn what_the_file_says_already_changes_nothing() {
    let address = "10.0.1.11".parse().unwrap();
    assert_eq!(
        edit(FILE, "web", address, changed(Some(100), None)).unwrap(),
        FILE
    );
}

#[test]
fn a_backend_joins_behind_its_like() {
    let wanted = Wanted::Present {
        weight: Some(7),
        state: None,
    };
    let address = "2001:db8::1".parse().unwrap();
    let after = edit(FILE, "web", address, wanted).unwrap();
    let added = "\n[[vip.backend]]\naddress = \"2001:db8::1\"\nweight = 7\n";
    assert_eq!(
        difference(FILE, &after),
        added
            .lines()
            .map(|line| format!("+{line}"))
            .collect::<Vec<_>>(),
        "{after}"
    );
    let config = Config::parse("f.toml", &after).unwrap();
    assert_eq!(config.vips[0].backends.len(), 3);
    assert_eq!(config.vips[0].backends[2].weight, 7);
}

#[test]
fn a_backend_leaves_with_its_own_comments() {
    let after = edit(FILE, "web", ADDRESS, Wanted::Absent).unwrap();
    assert_eq!(
        Config::parse("f.toml", &after).unwrap().vips[0]
            .backends
            .len(),
        1
    );
    assert!(after.contains("# About this rack:\n"), "{after}");
    assert!(
        !after.contains("# a new one") && !after.contains("4712"),
        "{after}"
    );
    let first = edit(FILE, "web", "10.0.1.11".parse().unwrap(), Wanted::Absent).unwrap();
    assert!(
        !first.contains("# The old ones.") && first.contains("# About this rack:"),
        "{first}"
    );
}

const INLINE: &str = r#"
vip = [
  { address = "203.0.113.10", port = 80, backend = [{ address = "10.0.1.11" }, { address = "10.0.1.12", weight = 3 }] }, # one line
]
"#;

#[test]
fn tables_in_one_line() {
    let vip = Config::parse("f.toml", INLINE).unwrap().vips[0]
        .name
        .clone();
    let edit =
        |wanted, address: &str| edit(INLINE, &vip, address.parse().unwrap(), wanted).unwrap();
    let after = edit(changed(Some(4), Some("draining")), "10.0.1.12");
    let line = r#"{ address = "10.0.1.12", weight = 4, state = "draining" }"#;
    assert_eq!(
        after,
        INLINE.replace(r#"{ address = "10.0.1.12", weight = 3 }"#, line)
    );
    let after = edit(
        Wanted::Present {
            weight: None,
            state: None,
        },
        "10.0.1.13",
    );
    let list = r#"weight = 3 }, { address = "10.0.1.13" }] }"#;
    assert_eq!(after, INLINE.replace("weight = 3 }] }", list));
    let after = edit(Wanted::Absent, "10.0.1.11");
    assert_eq!(after, INLINE.replace(r#"{ address = "10.0.1.11" }, "#, ""));
}

const LINES: &str = r#"
[[vip]]
address = "203.0.113.10"
port = 80
backend = [
    { address = "10.0.1.11" }, # one
    # two
    { address = "10.0.1.12" },
]
"#;

#[test]
fn an_array_of_lines() {
    let vip = Config::parse("f.toml", LINES).unwrap().vips[0].name.clone();
    let wanted = Wanted::Present {
        weight: Some(1),
        state: None,
    };
    let after = edit(LINES, &vip, "10.0.1.13".parse().unwrap(), wanted).unwrap();
    let line = "    { address = \"10.0.1.12\" },\n";
    let more = format!("{line}    {{ address = \"10.0.1.13\", weight = 1 }},\n");
    assert_eq!(after, LINES.replace(line, &more));
}

#[test]
fn indents_and_line_ends_stay() {
    let indented = FILE
        .replace("[[vip.backend]]\naddress", "  [[vip.backend]]\n    address")
        .replace("weight  =", "    weight  =");
    for text in [indented.clone(), indented.replace('\n', "\r\n")] {
        let after = edit(&text, "web", ADDRESS, changed(Some(5), None)).unwrap();
        let end = if text.contains('\r') { "\r\n" } else { "\n" };
        assert_eq!(difference(&text, &after), ["+    weight = 5"], "{after}");
        assert_eq!(after.matches('\r').count(), after.matches("\r\n").count());
        assert!(after.contains(&format!("    weight = 5{end}")), "{after:?}");
        let wanted = Wanted::Present {
            weight: None,
            state: None,
        };
        let after = edit(&text, "web", "10.0.1.14".parse().unwrap(), wanted).unwrap();
        let added = format!("{end}  [[vip.backend]]{end}    address = \"10.0.1.14\"{end}");
        assert!(after.contains(&added), "{after}");
    }
}

#[test]
fn what_cannot_be_edited_is_said() {
    let address = "10.0.1.14".parse().unwrap();
    let there = Wanted::Present {
        weight: None,
        state: None,
    };
    for (text, vip, address, wanted, says) in [
        (
            "vip = 1",
            "web",
            ADDRESS,
            Wanted::Absent,
            "the file is invalid as it is",
        ),
        (
            FILE,
            "wbe",
            ADDRESS,
            Wanted::Absent,
            "f.toml has no vip wbe",
        ),
        (
            FILE,
            "web",
            address,
            Wanted::Absent,
            "backend 10.0.1.14 is not in the file",
        ),
        (
            FILE,
            "web",
            address,
            changed(Some(1), None),
            "tunlb backend add --persist",
        ),
        (
            FILE,
            "web",
            ADDRESS,
            there,
            "backend 10.0.1.12 is in the file already",
        ),
        (
            FILE,
            "203.0.113.11:any/tcp",
            ADDRESS,
            Wanted::Absent,
            "the file would be invalid",
        ),
    ] {
        let vip = if vip.starts_with("203") {
            Config::parse("f", FILE).unwrap().vips[1].name.clone()
        } else {
            vip.to_owned()
        };
        let error = edit(text, &vip, address, wanted).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

mod any_file {
    use proptest::prelude::*;

    use super::*;

    /// A configuration of VIPs with backends, each with or without comments and empty lines.
    fn text(vips: &[Vec<(u16, bool, bool)>]) -> String {
        let mut text = String::new();
        for (number, backends) in vips.iter().enumerate() {
            text += &format!(
                "[[vip]]\nname = \"v{number}\"\naddress = \"203.0.113.{number}\"\nport = 80\n"
            );
            for (index, (weight, comment, space)) in backends.iter().enumerate() {
                let above = if *comment { "# above\n\n# own\n" } else { "" };
                let line = if *space { "\n" } else { "" };
                text += &format!(
                    "{line}{above}[[vip.backend]]\naddress = \"10.0.{number}.{index}\"\nweight = {weight} # w\n"
                );
            }
        }
        text
    }

    proptest! {
        #[test]
        fn one_line_differs(
            vips in prop::collection::vec(prop::collection::vec((1..1000_u16, any::<bool>(), any::<bool>()), 1..5), 1..4),
            vip in any::<prop::sample::Index>(),
            backend in any::<prop::sample::Index>(),
            weight in 1000..2000_u16,
        ) {
            let before = text(&vips);
            let vip = vip.index(vips.len());
            let backend = backend.index(vips[vip].len());
            let address = format!("10.0.{vip}.{backend}").parse().unwrap();
            let name = format!("v{vip}");
            let after = edit(&before, &name, address, changed(Some(weight), None)).unwrap();
            let differ = before.lines().zip(after.lines()).filter(|(old, new)| old != new).count();
            prop_assert_eq!((differ, before.lines().count()), (1, after.lines().count()));

            if vips[vip].len() > 1 {
                let after = edit(&before, &name, address, Wanted::Absent).unwrap();
                let config = Config::parse("f", &after).unwrap();
                prop_assert_eq!(config.vips[vip].backends.len(), vips[vip].len() - 1);
                let above = |text: &str| text.matches("# above\n").count();
                prop_assert_eq!(above(&after), above(&before));
            }
        }
    }
}
