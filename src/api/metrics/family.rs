//! A metric by its name, type and labels, and how its values are written.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabel as _, EncodeLabelSet,
    LabelSetEncoder, MetricEncoder,
};
use prometheus_client::metrics::MetricType;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric: one line of `docs/metrics.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// No label.
pub(super) const NONE: [&str; 0] = [];

/// Writes metrics one after the other, as the format wants it: all values of a metric together.
pub(super) struct Exposition<'a>(pub(super) DescriptorEncoder<'a>);

impl Exposition<'_> {
    /// Values that only grow, by their labels' values in the order of the family's labels.
    pub(super) fn counters<L: AsRef<[S]>, S: AsRef<str>, V: EncodeCounterValue>(
        &mut self,
        family: &Family,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.each(family, values, |encoder, value| {
            encoder.encode_counter::<[(&str, &str); 0], V, f64>(value, None)
        })
    }

    /// Values that come and go.
    pub(super) fn gauges<L: AsRef<[S]>, S: AsRef<str>, V: EncodeGaugeValue>(
        &mut self,
        family: &Family,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.each(family, values, |encoder, value| encoder.encode_gauge(value))
    }

    /// A counter without labels.
    pub(super) fn counter(
        &mut self,
        family: &Family,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.counters(family, [(NONE, value)])
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, family: &Family, value: impl EncodeGaugeValue) -> fmt::Result {
        self.gauges(family, [(NONE, value)])
    }

    /// Counts by the upper ends of their buckets, the last of which is infinite, and the sum of what was counted.
    pub(super) fn histogram(
        &mut self,
        family: &Family,
        buckets: &[(f64, u64)],
        sum: f64,
    ) -> fmt::Result {
        let count = buckets.iter().map(|(_, count)| count).sum();
        self.each(family, [(NONE, ())], |encoder, ()| {
            encoder.encode_histogram::<[(&str, &str); 0]>(sum, count, buckets, None)
        })
    }

    fn each<L: AsRef<[S]>, S: AsRef<str>, V>(
        &mut self,
        family: &Family,
        values: impl IntoIterator<Item = (L, V)>,
        write: impl Fn(&mut MetricEncoder<'_>, &V) -> fmt::Result,
    ) -> fmt::Result {
        let mut encoder =
            self.0
                .encode_descriptor(family.stem(), family.help, None, family.kind.encoded())?;
        for (of, value) in values {
            let labels = Labels {
                names: family.labels,
                values: of.as_ref(),
            };
            write(&mut encoder.encode_family(&labels)?, &value)?;
        }
        Ok(())
    }
}

impl Family {
    /// Its name without what the encoder adds.
    fn stem(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }
}

impl Kind {
    const fn encoded(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

/// Labels in their order.
#[derive(Debug)]
struct Labels<'a, S> {
    names: &'static [&'static str],
    values: &'a [S],
}

impl<S: AsRef<str>> EncodeLabelSet for Labels<'_, S> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (&name, value) in self.names.iter().zip(self.values) {
            (name, value.as_ref()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}
