//! A tunnel takes 20 bytes from every packet; the director's kernel says so to the client (RFC 1191).

use crate::enter::in_lab;
use crate::site::{Site, VIP};
use crate::traffic::{noise, upload};

#[test]
fn full_sized_uploads_learn_the_path_mtu() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let director = site.run_http();
        assert_eq!(site.director.mtu("tunlb0"), 1480);
        let (expected, path) = noise(lab, 1_000_000);
        assert_eq!(upload(&site, &path), expected);
        // Without the message the client would stick to 1500 bytes, which its link lets pass.
        let route = site.client.run(&format!("ip route get {VIP}"));
        assert!(
            route.contains("mtu 1480"),
            "the client has not learnt the path MTU: {route}"
        );
        assert!(site.director.counter("Ip", "FragFails") > 0);
        let totals = director.stop();
        assert_eq!(totals.dropped(), 0, "{totals:?}");
    });
}

#[test]
fn the_smallest_path_counts() {
    in_lab(|lab| {
        let site = Site::new(lab);
        site.director
            .run("ip route add 10.0.2.13/32 via 10.0.1.1 mtu 1400");
        let director = site.run_http();
        assert_eq!(site.director.mtu("tunlb0"), 1380);
        director.stop();
    });
}
