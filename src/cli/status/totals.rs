//! The tables of `tunlb status --stats` and `--rate`, in the columns of `ipvsadm -Ln`.
//!
//! Answers go from the backend to the client past the director, so what it would count of them is unknown: `-`.

use super::{View, backend, service};
use crate::api::model::{Rate, Rates, Status, Traffic};
use crate::cli::amount::{count, rate};
use crate::cli::columns::{Align, Cell, Screen, Table};

/// Of what goes back.
const UNSEEN: &str = "-";

pub(super) fn lines(status: &Status, view: View, screen: Screen) -> Vec<String> {
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Left, Right, Right, Right, Right, Right]);
    let heads = match view {
        View::Rate => ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"],
        View::Stats | View::Overview => ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"],
    };
    let all = ["Prot", "VIP"].iter().chain(&heads);
    table.row(all.map(Cell::new).collect());
    for vip in &status.vips {
        table.row(row(service(vip), &vip.traffic, &vip.rates, view));
        for of in &vip.backends {
            table.row(row(backend(of), &of.traffic, &of.rates, view));
        }
    }
    table.lines(screen)
}

fn row(begin: [Cell; 2], traffic: &Traffic, rates: &Rates, view: View) -> Vec<Cell> {
    let Rate {
        packets,
        bytes,
        new_flows,
    } = rates.ten_seconds;
    let [flows, packets, bytes] = match view {
        View::Rate => [new_flows, packets, bytes].map(rate),
        View::Stats | View::Overview => {
            [traffic.new_flows, traffic.packets, traffic.bytes].map(count)
        }
    };
    let unseen = || Cell::new(UNSEEN);
    let numbers = [flows, packets, bytes].map(Cell::new);
    let [flows, packets, bytes] = numbers;
    let end = [flows, packets, unseen(), bytes, unseen()];
    begin.into_iter().chain(end).collect()
}
