//! Keeping the session of a backup alive while other threads work.

use std::sync::mpsc;
use std::time::Duration;

use super::{BackupError, BackupServer};
use crate::ctx::{Cancel, Ctx};

/// How often the cancellation is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Does `work` on another thread and gives the session a sign of life each `keepalive` (never, when it is zero), whatever
/// the work is busy with: listing a large tree, linking and copying are all long enough for a firewall to forget a silent
/// connection.
///
/// A session that is lost, and a cancellation, set `stop`; the work must heed it. The error that came first is given.
pub(crate) fn attended<T: Send>(
    server: &mut dyn BackupServer,
    keepalive: Duration,
    stop: &Cancel,
    ctx: &Ctx<'_>,
    work: impl FnOnce() -> Result<T, BackupError> + Send,
) -> Result<T, BackupError> {
    let (sender, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            // Dropped at the end, however the work ends: that is what is waited for.
            let _sender = sender;
            work()
        });
        let mut silent = Duration::ZERO;
        let mut trouble = None;
        while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(TICK) {
            if trouble.is_some() {
                continue;
            }
            silent += TICK;
            let due = !keepalive.is_zero() && silent >= keepalive;
            if due {
                silent = Duration::ZERO;
            }
            let fine = ctx.cancel.check().map_err(BackupError::from);
            if let Err(error) = fine.and_then(|()| if due { server.ping() } else { Ok(()) }) {
                stop.cancel();
                trouble = Some(error);
            }
        }
        let done = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match trouble {
            // It ended well although the session is lost: without the session it is no backup.
            Some(error) => Err(error),
            None => done,
        }
    })
}
