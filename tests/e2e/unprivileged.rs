//! No root anywhere: a user who may open /dev/net/tun and make user namespaces runs the whole site.

use crate::enter::{in_lab_as_nobody, is_machine};
use crate::site::Site;

#[test]
fn a_user_without_privileges_runs_it_all() {
    in_lab_as_nobody(|lab| {
        assert!(!is_machine(), "still with the machine's root");
        let site = Site::new(lab);
        let director = site.run_http();
        assert!(["b1", "b2", "b3"].contains(&site.get().as_str()));
        let sent = site.sent_by_client();
        site.wait_until_read(sent);
        let totals = director.stop();
        assert_eq!(
            (totals.sent().packets, totals.dropped()),
            (sent, 0),
            "{totals:?}"
        );
    });
}
