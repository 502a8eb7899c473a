//! How often the API was asked for what, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Requests by route and status code. A route is one of the router's own words, such as "GET /v1/status", never a
/// path as a client sent it, so that there are only so many.
#[derive(Debug, Default)]
pub struct RequestCounts(Mutex<Counts>);

type Counts = BTreeMap<(&'static str, u16), u64>;

impl RequestCounts {
    /// Counts a request that was answered.
    pub fn count(&self, route: &'static str, code: u16) {
        *self.lock().entry((route, code)).or_default() += 1;
    }

    /// All that were counted: route, status code, how many.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, u16, u64)> {
        let counts = self.lock();
        counts
            .iter()
            .map(|(&(route, code), &count)| (route, code, count))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_code() {
        let requests = RequestCounts::default();
        for code in [200, 404, 200] {
            requests.count("GET /metrics", code);
        }
        assert_eq!(
            requests.all(),
            [("GET /metrics", 200, 2), ("GET /metrics", 404, 1)]
        );
    }
}
