use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use super::*;
use crate::director::{BackendIndex, PortMatch, Protocol, Service};
use crate::packet::Burst;
use crate::site;
use crate::site::testing::{config, udp};

/// More than the machine ever needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A director of two VIPs with two backends each.
fn director() -> Director {
    let vips = ["10.0.0.100:80/udp", "10.0.0.100:81/udp"];
    let config = config(&vips, &["10.0.1.11", "10.0.1.12"]);
    site::testing::director(&config, 0, 1)
}

/// Flows of three clients, 200 each to either VIP.
fn busy_director() -> Director {
    let mut director = director();
    for from in 1000..1200 {
        for (client, port) in [(1, 80), (2, 80), (3, 80), (1, 81), (2, 81), (3, 81)] {
            let packet = udp(client, from, port);
            let mut burst = Burst::new(packet.len());
            burst.vacant(0).unwrap()[..packet.len()].copy_from_slice(&packet);
            burst.push(packet.len());
            director.burst(&mut burst, Timestamp::START);
        }
    }
    assert_eq!(director.flows().len(), 1200);
    director
}

fn request(filter: FlowFilter, most: usize) -> FlowRequest {
    FlowRequest {
        from: FlowCursor::default(),
        filter,
        most,
    }
}

/// All flows that a worker shows, to a client in another thread.
fn listed(director: &Director, filter: FlowFilter, most: usize) -> Vec<KnownFlow> {
    let mailbox = FlowMailbox::default();
    let snapshot = director.snapshot();
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut flows, mut next) = (Vec::new(), Some(FlowCursor::default()));
            while let Some(from) = next {
                let request = FlowRequest {
                    from,
                    ..request(filter, most)
                };
                let chunk = mailbox.list(request, PATIENCE, || Ok(())).unwrap();
                assert!(chunk.flows.len() <= most.min(MAX_FLOWS));
                assert!(Arc::ptr_eq(&chunk.snapshot, snapshot));
                flows.extend(chunk.flows);
                next = chunk.next;
            }
            flows
        });
        while !client.is_finished() {
            if mailbox.is_waiting() {
                mailbox.serve(director, Timestamp::START);
            }
            thread::yield_now();
        }
        client.join().unwrap()
    })
}

#[test]
fn a_client_gets_every_flow_once() {
    let director = busy_director();
    for most in [1, 7, 512, 10_000] {
        let flows = listed(&director, FlowFilter::default(), most);
        let once: HashSet<_> = flows.iter().map(|flow| flow.key).collect();
        assert_eq!((flows.len(), once.len()), (1200, 1200), "{most}");
    }
}

#[test]
fn filters_select() {
    let director = busy_director();
    let web = Service {
        address: [10, 0, 0, 100].into(),
        port: PortMatch::Exact(NonZeroU16::new(80).unwrap()),
        protocol: Protocol::Udp,
    };
    let client = IpAddr::from([10, 0, 9, 2]);
    let backend = BackendIndex::new(2);
    let of_vip = FlowFilter {
        vip: Some(web),
        ..FlowFilter::default()
    };
    let of_client = FlowFilter {
        client: Some(client),
        ..FlowFilter::default()
    };
    let of_both = FlowFilter {
        client: Some(client),
        ..of_vip
    };
    for (filter, count) in [(of_vip, 600), (of_client, 400), (of_both, 200)] {
        let flows = listed(&director, filter, 100);
        assert_eq!(flows.len(), count, "{filter:?}");
        assert!(filter.client.is_none() || flows.iter().all(|flow| flow.key.source == client));
        assert!(filter.vip.is_none() || flows.iter().all(|flow| flow.key.destination_port == 80));
    }
    let of_backend = FlowFilter {
        backend: Some(backend),
        ..FlowFilter::default()
    };
    let flows = listed(&director, of_backend, 100);
    let counted = director.counters().traffic(backend).flows;
    assert_eq!(flows.len() as u64, counted);
    let is_of_it = |flow: &KnownFlow| flow.backend == backend && flow.key.destination_port == 81;
    assert!(counted > 0 && flows.iter().all(is_of_it));
}

/// An answer that comes too late is discarded, and the next client gets its own.
#[test]
fn a_late_answer_is_discarded() {
    let director = busy_director();
    let mailbox = FlowMailbox::default();
    let none = FlowFilter::default();
    let late = mailbox.list(request(none, 1), Duration::ZERO, || Ok(()));
    assert!(matches!(late, Err(FlowError::Late(_))), "{late:?}");
    mailbox.serve(&director, Timestamp::START);
    assert!(mailbox.answer.load().is_none(), "it was taken back");

    let stale = mailbox.list(request(none, 1), PATIENCE, || {
        mailbox.serve(&director, Timestamp::START);
        Err(io::Error::other("the client gives up"))
    });
    assert!(matches!(stale, Err(FlowError::Wake(_))), "{stale:?}");
    assert!(mailbox.answer.load().is_some());
    let late = mailbox.list(request(none, 5), Duration::ZERO, || Ok(()));
    assert!(matches!(late, Err(FlowError::Late(_))), "{late:?}");
    let served = mailbox.list(request(none, 5), PATIENCE, || {
        mailbox.serve(&director, Timestamp::START);
        Ok(())
    });
    assert_eq!(served.unwrap().flows.len(), 5);
}

#[test]
fn a_worker_that_is_asked_nothing_does_nothing() {
    let director = director();
    let mailbox = FlowMailbox::default();
    mailbox.serve(&director, Timestamp::START);
    assert!(!mailbox.is_waiting() && mailbox.answer.load().is_none());
}
