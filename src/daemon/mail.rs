//! Questions and answers between workers about flows whose packets stray ([`Question`]).
//!
//! Every worker has an inbox of bounded length, which any other may post to; what does not fit is not
//! posted, which is as good as an answer that knows nothing. Posting takes no lock and never waits.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};

use mio::Waker;

use crate::director::{Answer, Director, Question, Timestamp};

/// Messages that may wait for one worker: questions about as many packets as two others can park.
const INBOX: usize = 512;

#[derive(Debug, Clone, Copy)]
enum Message {
    Question(Question),
    Answer(Answer),
}

/// What a worker hears by, and how it reaches the others.
#[derive(Debug)]
pub(super) struct Mail {
    inbox: Receiver<Message>,
    /// By number; this worker's own is never used.
    workers: Vec<Address>,
    own: usize,
}

/// Another worker.
#[derive(Debug, Clone)]
struct Address {
    inbox: SyncSender<Message>,
    waker: Arc<Waker>,
    /// It was posted to and not woken yet.
    is_due: bool,
}

/// The mail of each worker, in the order of their wakers.
pub(super) fn connect(wakers: impl Iterator<Item = Arc<Waker>>) -> Vec<Mail> {
    let (workers, inboxes): (Vec<_>, Vec<_>) = wakers
        .map(|waker| {
            let (inbox, receiver) = mpsc::sync_channel(INBOX);
            let is_due = false;
            let address = Address {
                inbox,
                waker,
                is_due,
            };
            (address, receiver)
        })
        .unzip();
    let mail = inboxes.into_iter().enumerate().map(|(own, inbox)| Mail {
        inbox,
        workers: workers.clone(),
        own,
    });
    mail.collect()
}

impl Mail {
    /// Answers what was asked, and takes what was answered; called between bursts.
    ///
    /// # Errors
    /// Another worker cannot be woken.
    pub(super) fn read(&mut self, director: &mut Director, now: Timestamp) -> io::Result<()> {
        for _ in 0..INBOX {
            match self.inbox.try_recv() {
                Ok(Message::Question(question)) => {
                    let answer = director.answer(&question, now);
                    self.post(question.asker.into(), Message::Answer(answer));
                }
                Ok(Message::Answer(answer)) => director.hear(answer),
                Err(_) => break,
            }
        }
        self.wake()
    }

    /// Asks the other workers what the director asked in its last burst.
    ///
    /// # Errors
    /// Another worker cannot be woken.
    pub(super) fn ask(&mut self, director: &mut Director) -> io::Result<()> {
        while let Some(question) = director.take_question() {
            for worker in 0..self.workers.len() {
                if worker != self.own && !self.post(worker, Message::Question(question)) {
                    director.hear(Answer {
                        number: question.number,
                        backend: None,
                    });
                }
            }
        }
        self.wake()
    }

    /// Whether the worker's inbox took the message.
    fn post(&mut self, worker: usize, message: Message) -> bool {
        let Some(address) = self.workers.get_mut(worker) else {
            return false;
        };
        match address.inbox.try_send(message) {
            Ok(()) => {
                address.is_due = true;
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    fn wake(&mut self) -> io::Result<()> {
        let due = self.workers.iter_mut().filter(|address| address.is_due);
        for address in due {
            address.is_due = false;
            address.waker.wake()?;
        }
        Ok(())
    }
}
