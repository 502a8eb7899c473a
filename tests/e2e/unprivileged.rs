//! No root anywhere: a user who may open /dev/net/tun and make user namespaces runs the whole site.

use std::fs;

use crate::enter::in_lab_as_nobody;
use crate::site::Site;

#[test]
fn a_user_without_privileges_runs_it_all() {
    in_lab_as_nobody(|lab| {
        let map = fs::read_to_string("/proc/self/uid_map").expect("the map of user ids");
        let ids: Vec<_> = map.split_whitespace().collect();
        assert!(
            matches!(ids[..], ["0", outside, "1"] if outside != "0"),
            "not a user's: {map}"
        );
        let site = Site::new(lab);
        let director = site.run_http(&[]);
        assert!(["b1", "b2", "b3"].contains(&site.get().as_str()));
        let totals = director.stop();
        assert!(
            totals.sent().packets > 4 && totals.dropped() == 0,
            "{totals:?}"
        );
    });
}
