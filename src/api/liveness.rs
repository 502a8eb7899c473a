//! `GET /healthz`: whether every worker still turns. A worker without packets sleeps, so it is woken and must look up.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::sleep;

use super::model::{Liveness, WorkerLiveness};
use super::rates::thousandths;
use crate::control::WorkerLink;

/// How long a worker may take to look up.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(2);

/// How long an answer is reused, so that frequent requests do not wake workers more often than that.
const FRESH: Duration = Duration::from_millis(100);

/// Asks the workers, one question at a time.
#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<Option<(Instant, Liveness)>>);

impl Pulse {
    /// Whether each of them turns.
    pub(super) async fn of(&self, workers: &[WorkerLink]) -> Liveness {
        let mut last = self.0.lock().await;
        if let Some((at, known)) = &*last
            && at.elapsed() < FRESH
        {
            return known.clone();
        }
        let found = look(workers).await;
        *last = Some((Instant::now(), found.clone()));
        found
    }
}

async fn look(workers: &[WorkerLink]) -> Liveness {
    let woken = Instant::now();
    for worker in workers {
        if let Err(error) = worker.waker.wake() {
            log::warn!("cannot wake a worker: {error}");
        }
    }
    let turns = |worker: &WorkerLink| worker.heartbeat.age() <= woken.elapsed();
    while !workers.iter().all(turns) && woken.elapsed() < PATIENCE {
        sleep(LOOK).await;
    }
    let state = |(id, worker): (usize, &WorkerLink)| WorkerLiveness {
        id,
        ok: turns(worker),
        heartbeat_age_seconds: thousandths(worker.heartbeat.age().as_secs_f64()),
    };
    let workers: Vec<_> = workers.iter().enumerate().map(state).collect();
    Liveness {
        ok: workers.iter().all(|worker| worker.ok),
        workers,
    }
}
