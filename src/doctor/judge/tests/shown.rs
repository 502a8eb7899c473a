//! What is shown of a judgement: the picture of the way, the text, the document.

use super::*;

pub(super) fn picture(facts: &Facts) -> Vec<(String, StageState)> {
    let path = judge(facts, &Selection::default(), Lang::En)[0]
        .path
        .clone();
    path.into_iter()
        .map(|stage| (stage.stage, stage.state))
        .collect()
}

#[test]
fn pictures() {
    use StageState::{Fail, Ok, Skipped};
    let named = |stages: &[(&str, StageState)]| -> Vec<_> {
        stages
            .iter()
            .map(|(name, state)| ((*name).to_owned(), *state))
            .collect()
    };
    let all = [
        ("eth0", Ok),
        ("tunl0", Ok),
        ("rp_filter", Ok),
        ("socket", Ok),
        ("route", Ok),
        ("eth0", Ok),
    ];
    assert_eq!(picture(&healthy()), named(&all));
    let mut facts = healthy();
    drop_answers(&mut facts);
    let mut dropped = all.to_vec();
    dropped.insert(5, ("firewall", Fail));
    dropped[6].1 = Skipped;
    assert_eq!(picture(&facts), named(&dropped));
    let mut facts = healthy();
    no_vip(&mut facts);
    let missing = [
        ("eth0", Ok),
        ("tunl0", Ok),
        ("vip", Fail),
        ("rp_filter", Skipped),
        ("socket", Skipped),
        ("route", Skipped),
        ("E", Skipped),
    ];
    assert_eq!(picture(&facts)[..6], named(&missing)[..6]);
}

fn plain(facts: &Facts, lang: Lang) -> String {
    let style = Style {
        width: 90,
        detail: Detail::Notable,
        lang,
    };
    let text = report(&judge(facts, &Selection::default(), lang), style);
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn text_of_a_loose_filter() {
    let mut facts = healthy();
    loose(&mut facts);
    facts
        .counters
        .insert("TcpExtIPReversePathFilter".into(), 12);
    let expected = "\
203.0.113.10:80/tcp: SYN decapsulated on tunl0, then dropped: rp_filter is loose (2) and
tunl0 has no address [B11]
  eth0 ✓ → tunl0 ✓ → rp_filter ✗ → socket – → route – → eth0

FAIL    B11  rp_filter is loose and the tunnel device has no address
        SYN decapsulated on tunl0, then dropped: rp_filter is loose (2) and tunl0 has no
        address
        (inferred from configuration, not proven by a packet)
        evidence:
          TcpExtIPReversePathFilter = 12
          ip -4 addr show tunl0 = none
          ip route get 203.0.113.10 from 192.0.2.7 iif tunl0 = EINVAL
          net.ipv4.conf.all.rp_filter = 0
          net.ipv4.conf.tunl0.rp_filter = 2
        fix:
          ip addr add 127.0.0.42/32 dev tunl0
        to make it permanent:
          # /etc/systemd/network/tunl0.network
          [Match]
          Name=tunl0
          [Network]
          Address=127.0.0.42/32
          # /etc/network/interfaces.d/tunl0
          allow-hotplug tunl0
          iface tunl0 inet static
              address 127.0.0.42/32
        verify:
          ip route get 203.0.113.10 from 192.0.2.7 iif tunl0
";
    let text = plain(&facts, Lang::En);
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn text_in_chinese() {
    let mut facts = healthy();
    no_listener(&mut facts);
    let expected = "\
203.0.113.10:80/tcp: 本网络命名空间里没有程序监听 203.0.113.10:80/tcp：客户端会被拒绝
[B30]
  eth0 ✓ → tunl0 ✓ → rp_filter ✓ → socket ✗ → route – → eth0

FAIL    B30  VIP 的端口没有监听
        本网络命名空间里没有程序监听 203.0.113.10:80/tcp：客户端会被拒绝
        （依据配置判断，尚未由包证实）
        证据：
          10.0.1.11:80 = httpd
        修复：
          # 让服务绑定 203.0.113.10 或通配地址，端口 80
        验证：
          ss -tlnp sport = :80
";
    let text = plain(&facts, Lang::Zh);
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn json_document() {
    let mut facts = healthy();
    no_listener(&mut facts);
    let selection = Selection {
        only: vec![Code::backend(30), Code::backend(32)],
        skip: Vec::new(),
    };
    let document = Document::new(&judge(&facts, &selection, Lang::En)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&document.text().unwrap()).unwrap();
    let summary =
        "nothing listens on 203.0.113.10:80/tcp in this network namespace: clients are refused";
    assert_eq!(
        value,
        serde_json::json!({
            "schema": 1,
            "role": "backend",
            "vip": "203.0.113.10:80/tcp",
            "client": "192.0.2.7",
            "verdict": {"status": "fail", "code": "B30", "summary": summary},
            "path": [
                {"stage": "eth0", "state": "ok"},
                {"stage": "tunl0", "state": "unknown"},
                {"stage": "rp_filter", "state": "unknown"},
                {"stage": "socket", "state": "fail"},
                {"stage": "route", "state": "skipped"},
                {"stage": "eth0", "state": "skipped"},
            ],
            "checks": [
                {
                    "code": "B30",
                    "title": "nothing listens on the VIP's port",
                    "status": "fail",
                    "proven": false,
                    "summary": summary,
                    "evidence": {"10.0.1.11:80": "httpd"},
                    "fix": ["# let the service bind 203.0.113.10 or the wildcard address, port 80"],
                    "persist": [],
                    "verify": "ss -tlnp sport = :80",
                    "blocked_by": null,
                },
                {
                    "code": "B32",
                    "title": "the accept queue is full",
                    "status": "skip",
                    "proven": false,
                    "summary": "blocked by B30",
                    "evidence": {},
                    "fix": [],
                    "persist": [],
                    "verify": null,
                    "blocked_by": "B30",
                },
            ],
        })
    );
    let text = document.text().unwrap();
    assert_eq!(Document::parse(&text).unwrap(), document);
    let other = text.replace("\"schema\":1", "\"schema\":9");
    assert!(
        Document::parse(&other)
            .unwrap_err()
            .to_string()
            .contains("schema is 9")
    );
}
