//! Samples, medians and the table.

use std::time::Duration;

use crate::contender::Contender;

/// What one measurement gave.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// Thousands of packets per second behind the director.
    kpps: f64,
    /// CPU time of the director per packet.
    nanoseconds: f64,
    /// Thousands of packets per second that the generator sent.
    offered_kpps: f64,
}

/// One sample per contender, in their order.
pub(crate) type Round = Vec<Sample>;

impl Sample {
    pub(crate) fn new(window: Duration, packets: u64, cpu_time: Duration, sent: u64) -> Self {
        let per_millisecond = |count: u64| count as f64 / (window.as_secs_f64() * 1e3);
        Self {
            kpps: per_millisecond(packets),
            nanoseconds: cpu_time.as_secs_f64() * 1e9 / packets as f64,
            offered_kpps: per_millisecond(sent),
        }
    }
}

/// Prints the table of the directors; the first contender is the naive loop.
pub(crate) fn print_table(packet_bytes: usize, contenders: &[Contender], rounds: &[Round]) {
    let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
    print_rows(
        &format!("{packet_bytes}-byte UDP, one core"),
        &names,
        rounds,
    );
}

/// Prints medians over the rounds, a row for each name; the ratio is the median of each round's own ratio to its
/// first one.
pub(crate) fn print_rows(title: &str, names: &[&str], rounds: &[Round]) {
    println!("\n{title}, median of {} rounds", rounds.len());
    println!(
        "{:<40} {:>8} {:>10} {:>8} {:>13}",
        "", "kpps", "ns/packet", "× first", "offered kpps"
    );
    for (index, name) in names.iter().enumerate() {
        let over = |figure: fn(&[Sample], usize) -> f64| {
            median(
                &mut rounds
                    .iter()
                    .map(|round| figure(round, index))
                    .collect::<Vec<_>>(),
            )
        };
        println!(
            "{name:<40} {:>8.0} {:>10.0} {:>8.2} {:>13.0}",
            over(|round, index| round[index].kpps),
            over(|round, index| round[index].nanoseconds),
            over(|round, index| round[index].kpps / round[0].kpps),
            over(|round, index| round[index].offered_kpps),
        );
    }
}

/// The middle value, or the mean of the two middle ones; `values` are sorted and not empty.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}
