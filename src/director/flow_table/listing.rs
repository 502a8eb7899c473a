//! The flows of a table, a few at a time: each bucket of the index in its turn, its flows in the order of their
//! places.
//!
//! A flow that stays is met once, however many others come and go between two steps. While the table grows it
//! may be met again: a new bucket, behind all others, takes flows from an earlier one. None is passed over.

use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::Duration;

use super::{FlowTable, NONE};
use crate::director::flow_class::{FlowClass, Tick};
use crate::director::indices::BackendIndex;
use crate::director::time::Timestamp;
use crate::packet::FlowKey;

/// Where a listing goes on; at first at its [default](Default). As text `BUCKET`, or `BUCKET.PLACE` within a
/// bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowCursor {
    bucket: u32,
    /// The place of the flow of this bucket that was met last.
    after: Option<u32>,
}

impl FlowCursor {
    /// At a bucket, behind the flow of it at a place.
    #[must_use]
    pub const fn new(bucket: u32, after: Option<u32>) -> Self {
        Self { bucket, after }
    }

    /// The bucket.
    #[must_use]
    pub const fn bucket(&self) -> u32 {
        self.bucket
    }

    /// The place of the flow of this bucket that was met last.
    #[must_use]
    pub const fn after(&self) -> Option<u32> {
        self.after
    }
}

/// A flow that the table remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFlow {
    /// From the client to the VIP.
    pub key: FlowKey,
    /// The backend that it keeps.
    pub backend: BackendIndex,
    /// What the client's side shows of its life.
    pub class: FlowClass,
    /// Since its last packet, in steps of 1/16 s.
    pub idle: Duration,
}

impl FlowTable {
    /// Meets the flows behind `from` that are not expired, in at most `buckets` buckets. Where `visit` breaks,
    /// the flow counts as not met. Returns where to go on; `None` when every bucket was looked at.
    pub fn visit(
        &self,
        from: FlowCursor,
        buckets: u32,
        now: Timestamp,
        mut visit: impl FnMut(KnownFlow) -> ControlFlow<()>,
    ) -> Option<FlowCursor> {
        let now = Tick::at(now);
        let end = self
            .index
            .buckets()
            .min(from.bucket.saturating_add(buckets));
        let mut cursor = from;
        while cursor.bucket < end {
            while let Some(at) = self.next_of_bucket(cursor) {
                if !self.is_over(at, now) && visit(self.flow_at(at, now)).is_break() {
                    return Some(cursor);
                }
                cursor.after = Some(at);
            }
            cursor = FlowCursor {
                bucket: cursor.bucket + 1,
                after: None,
            };
        }
        (cursor.bucket < self.index.buckets()).then_some(cursor)
    }

    /// The first place of a bucket behind that of the cursor.
    fn next_of_bucket(&self, cursor: FlowCursor) -> Option<u32> {
        let (mut at, mut next) = (self.index.first_of(cursor.bucket), None);
        while at != NONE {
            let is_behind = cursor.after.is_none_or(|after| at > after);
            if is_behind && next.is_none_or(|next| at < next) {
                next = Some(at);
            }
            at = self.entries[at].next;
        }
        next
    }

    fn flow_at(&self, at: u32, now: Tick) -> KnownFlow {
        let entry = &self.entries[at];
        KnownFlow {
            key: entry.key().key(),
            backend: entry.backend,
            class: entry.class,
            idle: Tick::duration(now.since(entry.last_used)),
        }
    }
}

impl fmt::Display for FlowCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bucket)?;
        match self.after {
            Some(place) => write!(f, ".{place}"),
            None => Ok(()),
        }
    }
}

/// Not the text of a [`FlowCursor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct NotACursor;

impl FromStr for FlowCursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let number = |text: &str| text.parse().map_err(|_| NotACursor);
        let (bucket, after) = match text.split_once('.') {
            Some((bucket, place)) => (number(bucket)?, Some(number(place)?)),
            None => (number(text)?, None),
        };
        Ok(Self { bucket, after })
    }
}

#[cfg(test)]
mod tests;
