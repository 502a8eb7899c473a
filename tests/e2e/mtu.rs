//! A tunnel takes 20 bytes from every packet: backends announce segments that fit (RFC 6691), and a client that
//! sends more is told by the VIP (RFC 1191), or its packet leaves in fragments (RFC 791).

use crate::enter::in_lab;
use crate::site::{Site, VIP};
use crate::traffic::{noise, upload};

/// Drops ICMP of the director's own, private network, as many networks do.
const NO_PRIVATE_ICMP: &str = "nft -f - <<'EOF'
table ip border {
  chain onward {
    type filter hook forward priority 0; policy accept;
    ip saddr 10.0.1.0/24 ip protocol icmp counter drop
  }
}
EOF";

fn learnt(site: &Site) -> String {
    site.client.run(&format!("ip route get {VIP}"))
}

#[test]
fn full_sized_uploads_fit_at_once() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        let (expected, path) = noise(lab, 1_000_000);
        assert_eq!(upload(&site, &path), expected);
        assert!(!learnt(&site).contains("mtu"), "{}", learnt(&site));
        let totals = director.stop();
        assert_eq!((totals.answered, totals.dropped()), (0, 0), "{totals:?}");
    });
}

#[test]
fn the_vip_says_what_fits() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.announce_too_much();
        site.router.sh(NO_PRIVATE_ICMP);
        let director = site.run_http();
        assert_eq!(site.director.mtu("tunlb0"), 1500);
        let (expected, path) = noise(lab, 1_000_000);
        assert_eq!(upload(&site, &path), expected);
        // Without the message the client would stick to 1500 bytes, which its link lets pass.
        assert!(learnt(&site).contains("mtu 1480"), "{}", learnt(&site));
        let filtered = site.router.run("nft list table ip border");
        assert!(filtered.contains("packets 0 "), "{filtered}");
        let totals = director.stop();
        assert!(totals.answered > 0, "{totals:?}");
        let too_big = totals.dropped.get("too_big").copied().unwrap_or_default();
        assert_eq!(totals.dropped(), too_big, "{totals:?}");
    });
}

#[test]
fn the_path_to_the_backend_counts() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.announce_too_much();
        site.director
            .run("ip route add 10.0.2.13/32 via 10.0.1.1 mtu 1400");
        let director = site.run(&["--vip", "10.0.0.100:80/tcp", "--backend", "10.0.2.13"]);
        let (expected, path) = noise(lab, 100_000);
        assert_eq!(upload(&site, &path), expected);
        assert!(learnt(&site).contains("mtu 1380"), "{}", learnt(&site));
        director.stop();
    });
}
