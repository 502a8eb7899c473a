//! How much goes to each backend in a second: averages that forget as a load average does.
//!
//! Once a second the counters are read. With `x` counted in the `d` seconds since the last reading, the average
//! over `t` seconds becomes `r + (x / d - r) * (1 - exp(-d / t))`: what is `t` seconds old counts e times less than
//! what is new. It begins at 0, so that the average over a minute is within 2 % of a steady rate after four minutes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::model::{Rate, Rates};
use super::numbers;
use crate::control::view::View;
use crate::director::{BackendIndex, Service, Traffic};

/// How often the counters are read.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// The times of the three averages, in seconds.
const TIMES: [f64; 3] = [1.0, 10.0, 60.0];

/// Who holds an index: an address behind a service.
type Holder = (Service, IpAddr);

/// The averages of all backends.
#[derive(Debug)]
pub(super) struct AllRates {
    /// By index.
    seats: Vec<Option<Seat>>,
    read: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Seat {
    holder: Holder,
    counted: Traffic,
    rates: Rates,
}

impl AllRates {
    /// Nothing is known before the first reading.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            seats: Vec::new(),
            read: now,
        }
    }

    /// Reads the counters.
    pub(super) fn read(&mut self, view: &View, now: Instant) {
        let seconds = now.duration_since(self.read).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        self.read = now;
        let weights = TIMES.map(|time| 1.0 - (-seconds / time).exp());
        self.seats.resize(view.snapshot.index_bound(), None);
        for vip in view.snapshot.vips() {
            for &index in vip.backends() {
                let backend = view.snapshot.backend(index);
                let seat = self.seats.get_mut(index.position());
                if let (Some(backend), Some(seat)) = (backend, seat) {
                    let holder = (vip.service, backend.address);
                    let counted = view.counters.traffic(index);
                    *seat = Some(next(seat.take(), holder, counted, seconds, weights));
                }
            }
        }
    }

    /// Those of the backend with that address behind that service.
    pub(super) fn of(&self, index: BackendIndex, service: Service, address: IpAddr) -> Rates {
        let seat = self.seats.get(index.position()).copied().flatten();
        let seat = seat.filter(|seat| seat.holder == (service, address));
        seat.map(|seat| seat.rates).unwrap_or_default()
    }
}

fn next(
    before: Option<Seat>,
    holder: Holder,
    counted: Traffic,
    seconds: f64,
    weights: [f64; 3],
) -> Seat {
    // Of one that was not there at the last reading, all was counted since.
    let before = before.filter(|seat| seat.holder == holder).unwrap_or(Seat {
        holder,
        counted: Traffic::default(),
        rates: Rates::default(),
    });
    let more = counted - before.counted;
    let now = Rate {
        packets: per_second(more.packets, seconds),
        bytes: per_second(more.bytes, seconds),
        new_flows: per_second(numbers::new_flows(&more), seconds),
    };
    let [second, ten_seconds, minute] = weights;
    Seat {
        holder,
        counted,
        rates: Rates {
            second: before.rates.second.towards(now, second),
            ten_seconds: before.rates.ten_seconds.towards(now, ten_seconds),
            minute: before.rates.minute.towards(now, minute),
        },
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "what is counted in a second is far below 2^53"
)]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

impl Rate {
    fn towards(self, now: Self, weight: f64) -> Self {
        let between = |before: f64, now: f64| (now - before).mul_add(weight, before);
        Self {
            packets: between(self.packets, now.packets),
            bytes: between(self.bytes, now.bytes),
            new_flows: between(self.new_flows, now.new_flows),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            new_flows: self.new_flows + other.new_flows,
        }
    }

    fn rounded(self) -> Self {
        Self {
            packets: thousandths(self.packets),
            bytes: thousandths(self.bytes),
            new_flows: thousandths(self.new_flows),
        }
    }
}

impl Rates {
    /// The sum of both.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            second: self.second.plus(other.second),
            ten_seconds: self.ten_seconds.plus(other.ten_seconds),
            minute: self.minute.plus(other.minute),
        }
    }

    /// As it is shown: to a thousandth.
    pub(super) fn rounded(self) -> Self {
        Self {
            second: self.second.rounded(),
            ten_seconds: self.ten_seconds.rounded(),
            minute: self.minute.rounded(),
        }
    }
}

/// A number to three digits after the point.
pub(super) fn thousandths(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    fn after(rates: &mut AllRates, fake: &Fake, seconds: f64) -> Rates {
        let now = rates.read + Duration::from_secs_f64(seconds);
        rates.read(&fake.view(), now);
        let view = fake.view();
        let vip = &view.snapshot.vips()[0];
        let index = vip.backends()[0];
        let address = view.snapshot.backend(index).unwrap().address;
        rates.of(index, vip.service, address)
    }

    #[test]
    fn a_steady_rate_is_reached_as_a_load_average_does() {
        let fake = Fake::new(1, &["10.0.1.11"]);
        let mut rates = AllRates::new(Instant::now());
        assert_eq!(after(&mut rates, &fake, 1.0), Rates::default());
        let mut last = Rates::default();
        for second in 1..=240 {
            fake.send(0, 0, 100, 1000);
            last = after(&mut rates, &fake, 1.0);
            let expected = |time: f64| 100.0 * (1.0 - (-f64::from(second) / time).exp());
            for (rate, time) in [
                (last.second, 1.0),
                (last.ten_seconds, 10.0),
                (last.minute, 60.0),
            ] {
                assert!(
                    (rate.packets - expected(time)).abs() < 1e-6,
                    "{second} {time}: {rate:?}"
                );
                assert!((rate.bytes - 1000.0 * rate.packets).abs() < 1e-3);
            }
        }
        assert!(last.minute.packets > 98.0);
        let quiet = after(&mut rates, &fake, 10.0);
        assert!((quiet.ten_seconds.packets - last.ten_seconds.packets / 1_f64.exp()).abs() < 1e-6);
    }

    /// What was counted in two seconds instead of one is no peak.
    #[test]
    fn a_late_reading_counts_by_its_time() {
        let fake = Fake::new(1, &["10.0.1.11"]);
        let mut rates = AllRates::new(Instant::now());
        fake.send(0, 0, 200, 1);
        let late = after(&mut rates, &fake, 2.0);
        assert!((late.second.packets - 100.0 * (1.0 - (-2_f64).exp())).abs() < 1e-6);
        let now = rates.read;
        rates.read(&fake.view(), now); // no time, no change
        assert_eq!(rates.seats[0].unwrap().rates, late);
    }

    #[test]
    fn another_backend_begins_anew() {
        let fake = Fake::new(1, &["10.0.1.11"]);
        let mut rates = AllRates::new(Instant::now());
        fake.send(0, 0, 100, 1);
        after(&mut rates, &fake, 1.0);
        let view = fake.view();
        let vip = &view.snapshot.vips()[0];
        let index = vip.backends()[0];
        let other = "10.0.1.99".parse().unwrap();
        assert_eq!(rates.of(index, vip.service, other), Rates::default());
        assert_eq!(
            rates.of(BackendIndex::new(9), vip.service, other),
            Rates::default()
        );
    }
}
