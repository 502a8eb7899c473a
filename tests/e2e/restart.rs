//! A restart with another configuration: the flow table is gone, the ring keeps flows where they were.

use std::path::PathBuf;

use crate::enter::in_lab;
use crate::lab::Lab;
use crate::site::{BACKENDS, Site, VIP};

#[test]
fn a_removed_backend_leaves_the_others_flows_alone() {
    in_lab(|lab| {
        let site = Site::new(lab);
        let all = config(lab, "all.toml", &BACKENDS);
        let fewer = config(lab, "fewer.toml", &[BACKENDS[0], BACKENDS[2]]);

        let director = site.run(&["-c", &all.display().to_string()]);
        let before = site.get_in_parallel(200, 20_000);
        director.stop();
        assert!(
            !site.director.has_device("tunlb0"),
            "the device outlived the director"
        );

        let director = site.run(&["-c", &fewer.display().to_string()]);
        let after = site.get_in_parallel(200, 20_000);
        let totals = director.stop();

        let of = |name: &str| after.values().filter(|backend| *backend == name).count();
        assert_eq!(of("b2"), 0, "the removed backend still answered");
        assert!(
            of("b1") > 20 && of("b3") > 20,
            "b1 {}, b3 {}",
            of("b1"),
            of("b3")
        );
        assert_eq!((totals.busy("web"), totals.dropped()), (2, 0), "{totals:?}");

        let (survivors, moved) = before
            .iter()
            .filter(|(_, backend)| *backend != "b2")
            .fold((0, 0), |(all, moved), (port, backend)| {
                (all + 1, moved + u32::from(after[port] != *backend))
            });
        // Maglev reshuffles a few slots of the survivors (NSDI 2016 §5.3), a plain modulo half of them.
        assert!(
            moved * 10 < survivors,
            "{moved} of {survivors} connections changed from one surviving backend to another"
        );
    });
}

fn config(lab: &Lab, name: &str, backends: &[(&str, &str)]) -> PathBuf {
    let mut text =
        format!("[[vip]]\nname = \"web\"\naddress = \"{VIP}\"\nport = 80\nprotocol = \"tcp\"\n");
    for (_, address) in backends {
        text += &format!("[[vip.backend]]\naddress = \"{address}\"\n");
    }
    lab.file(name, text)
}
