//! `GET /v1/flows`: pages over the tables of all workers, one after the other.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::str::FromStr;

use super::model::{Flow, FlowPage, SCHEMA};
use crate::control::{FlowChunk, FlowRequest};
use crate::director::{FlowCursor, FlowFilter, KnownFlow, NotACursor, Snapshot};

/// Where a page begins: a worker, and where in its table. As text `WORKER:` and the table's cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageCursor {
    worker: usize,
    at: FlowCursor,
}

/// Which page of which flows.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest {
    /// Where it begins.
    pub from: PageCursor,
    /// Which flows.
    pub filter: FlowFilter,
    /// Flows in it, at most.
    pub limit: NonZeroUsize,
}

/// A page of the flows of so many workers. `ask` asks one of them. While `goes_on` says so, workers are asked until
/// the page is full; else it ends early, be it empty, with a cursor for the next one.
///
/// # Errors
/// That of `ask`: a worker did not answer.
pub fn page<E>(
    request: &PageRequest,
    workers: usize,
    mut ask: impl FnMut(usize, FlowRequest) -> Result<FlowChunk, E>,
    mut goes_on: impl FnMut() -> bool,
) -> Result<FlowPage, E> {
    let mut page = FlowPage {
        schema: SCHEMA,
        flows: Vec::new(),
        next_cursor: None,
    };
    let mut cursor = request.from;
    while cursor.worker < workers {
        let missing = request.limit.get() - page.flows.len();
        if missing == 0 || !goes_on() {
            page.next_cursor = Some(cursor.to_string());
            break;
        }
        let chunk = ask(
            cursor.worker,
            FlowRequest {
                from: cursor.at,
                filter: request.filter,
                most: missing,
            },
        )?;
        let shown = |flow| shown(flow, &chunk.snapshot, cursor.worker);
        page.flows.extend(chunk.flows.iter().filter_map(shown));
        cursor = match chunk.next {
            Some(at) => PageCursor { at, ..cursor },
            None => PageCursor {
                worker: cursor.worker + 1,
                at: FlowCursor::default(),
            },
        };
    }
    Ok(page)
}

/// `None` for a flow of which neither VIP nor backend was ever configured, of which there is none.
fn shown(flow: &KnownFlow, snapshot: &Snapshot, worker: usize) -> Option<Flow> {
    let key = &flow.key;
    let vip = snapshot.vip_of(key, flow.backend);
    Some(Flow {
        protocol: key.protocol.to_string(),
        source: SocketAddr::new(key.source, key.source_port),
        destination: SocketAddr::new(key.destination, key.destination_port),
        vip: vip.map_or_else(String::new, |vip| vip.name.clone()),
        backend: snapshot.address_of(flow.backend)?,
        state: flow.class.name().to_owned(),
        idle_seconds: flow.idle.as_secs_f64(),
        worker,
    })
}

impl fmt::Display for PageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.worker, self.at)
    }
}

impl FromStr for PageCursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let (worker, at) = text.split_once(':').ok_or(NotACursor)?;
        Ok(Self {
            worker: worker.parse().map_err(|_| NotACursor)?,
            at: at.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::MAX_FLOWS;
    use crate::director::{Director, Timestamp};
    use crate::packet::Burst;
    use crate::site;
    use crate::site::testing::{config, udp};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    /// A director with flows from these ports of one client.
    fn director(worker: u16, ports: std::ops::Range<u16>) -> Director {
        let config = config(&["10.0.0.100:80/udp"], &["10.0.1.11"]);
        let mut director = site::testing::director(&config, worker, 3);
        for port in ports {
            let packet = udp(1, port, 80);
            let mut burst = Burst::new(packet.len());
            burst.vacant(0).unwrap()[..packet.len()].copy_from_slice(&packet);
            burst.push(packet.len());
            director.burst(&mut burst, Timestamp::START);
        }
        director
    }

    fn ask(director: &Director, request: &FlowRequest) -> FlowChunk {
        let mut flows = Vec::new();
        let FlowRequest { from, filter, most } = request;
        let most = (*most).min(MAX_FLOWS);
        let next = director.list(*from, filter, most, &mut flows, Timestamp::START);
        FlowChunk {
            flows,
            next,
            snapshot: Arc::clone(director.snapshot()),
        }
    }

    fn request(from: &str, limit: usize) -> PageRequest {
        PageRequest {
            from: from.parse().unwrap(),
            filter: FlowFilter::default(),
            limit: NonZeroUsize::new(limit).unwrap(),
        }
    }

    /// All flows by pages of `limit`, in which `goes_on` ends some early.
    fn all(directors: &[Director], limit: usize, mut goes_on: impl FnMut() -> bool) -> Vec<Flow> {
        let (mut flows, mut next) = (Vec::new(), Some("0:0".to_owned()));
        while let Some(cursor) = next {
            let ask = |worker: usize, request| Ok::<_, ()>(ask(&directors[worker], &request));
            let page = page(&request(&cursor, limit), directors.len(), ask, &mut goes_on).unwrap();
            assert!(page.flows.len() <= limit);
            flows.extend(page.flows);
            next = page.next_cursor;
        }
        flows
    }

    #[test]
    fn pages_have_every_flow_of_every_worker_once() {
        let directors = [
            director(0, 1..700),
            director(1, 0..0),
            director(2, 700..1000),
        ];
        for limit in [1, 3, 100, 512, 5000] {
            let mut turn = 0;
            let every_second = || {
                turn += 1;
                turn % 2 == 0
            };
            for flows in [
                all(&directors, limit, || true),
                all(&directors, limit, every_second),
            ] {
                let found: BTreeSet<_> = flows
                    .iter()
                    .map(|flow| (flow.source.port(), flow.worker))
                    .collect();
                let first = (1..700).map(|port| (port, 0));
                let expected = first.chain((700..1000).map(|port| (port, 2)));
                assert!(found.into_iter().eq(expected), "{limit}");
                assert_eq!(flows.len(), 999, "{limit}");
            }
        }
    }

    #[test]
    fn a_flow_as_it_is_shown() {
        let shown = all(&[director(0, 5000..5001)], 10, || true);
        let expected = Flow {
            protocol: "udp".into(),
            source: "10.0.9.1:5000".parse().unwrap(),
            destination: "10.0.0.100:80".parse().unwrap(),
            vip: "10.0.0.100:80/udp".into(),
            backend: [10, 0, 1, 11].into(),
            state: "first_datagram".into(),
            idle_seconds: 0.0,
            worker: 0,
        };
        assert_eq!(shown, [expected]);
    }

    #[test]
    fn a_worker_without_an_answer_is_an_error() {
        let failed = page(&request("0:0", 9), 1, |_, _| Err("late"), || true);
        assert_eq!(failed, Err("late"));
        let beyond = page(&request("7:0", 9), 1, |_, _| Err("late"), || true);
        let page = beyond.unwrap();
        assert_eq!((page.flows.len(), page.next_cursor), (0, None));
    }

    #[test]
    fn cursors_as_text() {
        for text in ["0:0", "3:17", "3:17.4"] {
            assert_eq!(text.parse::<PageCursor>().unwrap().to_string(), text);
        }
        for text in ["", "0", ":", "0:", ":0", "-1:0", "0:x", "0:0:0"] {
            assert_eq!(text.parse::<PageCursor>(), Err(NotACursor), "{text}");
        }
    }
}
