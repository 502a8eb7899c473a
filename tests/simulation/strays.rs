//! ICMP errors about a flow that the other worker reads: it asks, and they go where the flow is.

use std::net::IpAddr;

use tunlb::director::{DropReason, Takes, Timestamp, Verdict};

use crate::day::WORKERS;
use crate::model::{Flow, Worker};
use crate::tally::Tally;
use crate::traffic;

/// The other worker than the flow's reads an error about it.
pub(crate) fn error(
    workers: &mut [Worker; WORKERS],
    flow: &Flow,
    now: Timestamp,
    tally: &mut Tally,
) {
    let (home, other) = (flow.worker, 1 - flow.worker);
    let Some(vip) = workers[other].view.vip(&flow.key) else {
        return;
    };
    let with = address_of(&workers[home], flow, now);
    let follows = with.filter(|&address| takes(&workers[other], vip, address));
    let has_changed = workers[other].view.snapshot.epoch() > 1;
    let ring = workers[other].ring(&flow.key);
    let expected = follows.filter(|_| has_changed).or(ring);
    let bytes = traffic::unreachable(&flow.key);
    let got = pass(workers, other, &bytes, now);
    let books = &mut tally.books;
    let address = match got {
        Verdict::Forward(forward) => {
            books.sent(forward.backend, bytes.len());
            let backend = workers[other].view.snapshot.backend(forward.backend);
            Ok(backend.expect("of this snapshot").address)
        }
        Verdict::Drop(reason) => {
            books.dropped(reason);
            Err(reason)
        }
        verdict @ (Verdict::Reply(_) | Verdict::Hold) => panic!("{verdict:?}"),
    };
    let key = &flow.key;
    assert_eq!(
        address,
        expected.ok_or(DropReason::NoBackend),
        "{key} at {now:?}"
    );
    tally.strays += 1;
    tally.strays_off_ring += u64::from(has_changed && follows.is_some() && follows != ring);
}

/// The backend that the flow's own worker has it with, and sends its packets to.
fn address_of(home: &Worker, flow: &Flow, now: Timestamp) -> Option<IpAddr> {
    home.peek(flow, now)?;
    let (_, address) = flow.memory?.identity;
    let vip = home.view.vip(&flow.key)?;
    takes(home, vip, address).then_some(address)
}

fn takes(worker: &Worker, vip: usize, backend: IpAddr) -> bool {
    let takes = worker.view.takes(vip, backend);
    takes.is_some_and(|takes| takes != Takes::Nothing)
}

/// What a worker decides once all answers to its question are there.
fn pass(workers: &mut [Worker; WORKERS], at: usize, bytes: &[u8], now: Timestamp) -> Verdict {
    let verdict = workers[at].pipeline.pass(bytes, now).verdict;
    let question = workers[at].pipeline.director_mut().take_question();
    let Some(question) = question else {
        return verdict;
    };
    assert_eq!(verdict, Verdict::Hold);
    let answer = workers[1 - at].pipeline.director().answer(&question, now);
    let pipeline = &mut workers[at].pipeline;
    pipeline.director_mut().hear(answer);
    pipeline.turn(now).expect("memory has no error");
    pipeline.egress.packets.clear();
    let [verdict] = pipeline.director().verdicts() else {
        panic!("{:?}", pipeline.director().verdicts());
    };
    *verdict
}
