//! [`parallel_map_ordered`]: a loop whose bodies run side by side and whose results come in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Sender, bounded};

use crate::ctx::{Cancel, Cancelled};

/// How parallel a loop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parallel {
    /// Threads that work; 0 counts as 1. The reader and the caller's thread come on top, they mostly wait.
    pub workers: usize,
    /// Items that may wait or be finished but not yet delivered, beyond one for each worker. The loop never holds more
    /// than `workers + queue` items and results together.
    pub queue: usize,
}

impl Parallel {
    /// As many workers, and as many items waiting: what keeps them all busy.
    pub fn new(workers: usize) -> Self {
        Self { workers, queue: workers.max(1) }
    }
}

/// What a thread has to say about the item with a number.
enum Said<U, E> {
    Done(Result<U, E>),
    /// There is no such item: the source had only so many.
    NoMore,
    /// The thread is unwinding; the scope will panic when it joins it.
    Panicked,
}

/// Tells the deliverer when a thread dies with an item in hand: otherwise it would wait for it for ever.
struct Bomb<'a, U, E> {
    number: u64,
    said: &'a Sender<(u64, Said<U, E>)>,
}

impl<U, E> Drop for Bomb<'_, U, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.said.send((self.number, Said::Panicked));
        }
    }
}

/// Does `work` on each item in parallel and hands the results to `deliver` on the caller's thread, in the order of
/// the items.
///
/// It ends as the plain loop `for item in items { deliver(work(item?)?)? }` would: when item 7 fails, the results of 0 … 6
/// have been delivered, none after it, and its error is returned, whatever happened to later items meanwhile. `items` is
/// pulled in a thread of its own, at most `workers + queue` items ahead. `worker` makes what each thread keeps for itself
/// (an encoder, a connection).
///
/// When `cancel` is set, nothing more is pulled or delivered and the answer is [`Cancelled`]. All threads are joined
/// before it returns, so `items` and `work` must not block for ever.
///
/// # Panics
/// When one of the closures does, after all threads were joined.
pub fn parallel_map_ordered<T, U, E, W>(
    items: impl Iterator<Item = Result<T, E>> + Send,
    parallel: Parallel,
    cancel: &Cancel,
    worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, T) -> Result<U, E> + Sync,
    mut deliver: impl FnMut(U) -> Result<(), E>,
) -> Result<(), E>
where
    T: Send,
    U: Send,
    E: Send + From<Cancelled>,
{
    let workers = parallel.workers.max(1);
    let in_flight = workers + parallel.queue;
    let failed = AtomicBool::new(false);
    // Everything that is not the order of things is in these three queues: permits bound the number of items that are
    // anywhere between the source and `deliver`, so that sending to the other two never waits.
    let (permit, permits) = bounded::<()>(in_flight);
    let (task, tasks) = bounded::<(u64, T)>(in_flight);
    let (said, hear) = bounded::<(u64, Said<U, E>)>(in_flight + workers + 2);

    std::thread::scope(|scope| {
        {
            let (said, failed) = (said.clone(), &failed);
            scope.spawn(move || {
                let mut bomb = Bomb { number: 0, said: &said };
                for item in items {
                    let item = if cancel.is_cancelled() { Err(E::from(Cancelled)) } else { item };
                    // Fails when the deliverer is gone.
                    if permits.recv().is_err() || failed.load(Ordering::SeqCst) {
                        return;
                    }
                    let sent = match item {
                        Ok(item) => task.send((bomb.number, item)).is_ok(),
                        Err(e) => {
                            let _ = said.send((bomb.number, Said::Done(Err(e))));
                            return;
                        }
                    };
                    if !sent {
                        return;
                    }
                    bomb.number += 1;
                }
                let _ = said.send((bomb.number, Said::NoMore));
            });
        }
        for _ in 0..workers {
            let (said, tasks) = (said.clone(), tasks.clone());
            let (worker, work, failed) = (&worker, &work, &failed);
            scope.spawn(move || {
                let mut mine = None;
                for (number, item) in tasks {
                    let bomb = Bomb { number, said: &said };
                    if cancel.is_cancelled() {
                        let _ = said.send((number, Said::Done(Err(E::from(Cancelled)))));
                        return;
                    }
                    let result = work(mine.get_or_insert_with(worker), item);
                    if result.is_err() {
                        // What comes before it in order is already on its way; nothing after it is wanted.
                        failed.store(true, Ordering::SeqCst);
                    }
                    if said.send((number, Said::Done(result))).is_err() {
                        return;
                    }
                    drop(bomb);
                }
            });
        }
        drop((said, tasks));

        // By value, so that they are gone, and the threads end, however this closure ends.
        let (permit, hear) = (permit, hear);
        for _ in 0..in_flight {
            let _ = permit.send(());
        }
        let mut early = BTreeMap::new();
        for next in 0.. {
            let now = loop {
                if let Some(said) = early.remove(&next) {
                    break said;
                }
                match hear.recv() {
                    Ok((_, Said::Panicked)) => break Said::Panicked,
                    Ok((number, said)) => drop(early.insert(number, said)),
                    // All threads ended without a word for this item: one of them panicked outside of its item.
                    Err(_) => break Said::Panicked,
                }
            };
            match now {
                Said::Done(result) => {
                    cancel.check()?;
                    deliver(result?)?;
                }
                Said::NoMore => return Ok(()),
                Said::Panicked => {
                    cancel.check()?;
                    // The scope joins the threads and passes the panic on.
                    return Ok(());
                }
            }
            let _ = permit.try_send(());
        }
        Ok(())
    })
}
