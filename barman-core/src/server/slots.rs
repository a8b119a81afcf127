//! What `receive-wal` does beside receiving: making and dropping the slot, and aligning the place to go on.

use std::time::Duration;

use camino::Utf8PathBuf;

use super::archive::trouble;
use super::{Server, ServerError};
use crate::ctx::{Cancel, Ctx};
use crate::format::conninfo::ConnInfo;
use crate::io::{LockError, LockName};
use crate::model::{SegmentName, WalFileName};
use crate::pg::{ReplicationSlot, Session};
use crate::wal::{Incoming, TakenHow};

/// SQLSTATEs of slots: there already, not there, in use.
const DUPLICATE: &str = "42710";
const UNDEFINED: &str = "42704";
const IN_USE: &str = "55006";

/// How long a server may take to answer; a stream has limits of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that takes the connection and then says nothing must not hold a receiver for ever.
fn bounded(info: &mut ConnInfo) -> Result<(), ServerError> {
    if info.get("connect_timeout").is_none() {
        info.set("connect_timeout", "30").map_err(|e| ServerError::Usage(e.to_string()))?;
    }
    Ok(())
}

/// What `receive-wal --reset` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reset {
    /// The receiver would go on where the server is.
    Aligned,
    /// It begins anew.
    Moved {
        /// An empty file of before, which is gone.
        removed: Option<Utf8PathBuf>,
        /// The file with which it begins.
        created: Utf8PathBuf,
    },
}

impl Server {
    /// Connects for what concerns WAL streaming: by `wal_conninfo`, or what stands for it.
    pub(crate) fn wal_session(&self) -> Result<Session, ServerError> {
        self.wal_session_until(&self.host.cancel)
    }

    pub(crate) fn wal_session_until(&self, cancel: &Cancel) -> Result<Session, ServerError> {
        let options = &self.config.options;
        let text = match &options.wal_streaming_conninfo {
            Some(streaming) => options.wal_conninfo.as_ref().or(Some(streaming)),
            None => options.conninfo.as_ref(),
        };
        let text = text.ok_or_else(|| ServerError::NoConninfo { server: self.name().clone() })?;
        let mut info = self.own_conninfo(text)?;
        bounded(&mut info)?;
        let mut session = Session::connect(&info, &self.host.environment, cancel)?;
        session.set_limit(Some(PATIENCE));
        Ok(session)
    }

    /// A replication connection for receiving WAL, under the receiver's name.
    pub(crate) fn wal_streaming(&self) -> Result<Session, ServerError> {
        let options = &self.config.options;
        let text = options.wal_streaming_conninfo.as_ref().or(options.streaming_conninfo.as_ref());
        let text = text.ok_or_else(|| ServerError::NoConninfo { server: self.name().clone() })?;
        let mut info = self.parse_conninfo(text)?;
        let name = options.streaming_archiver_name.as_deref().unwrap_or("barman_receive_wal");
        info.set("application_name", name).map_err(|e| ServerError::Usage(e.to_string()))?;
        bounded(&mut info)?;
        let mut session = Session::connect_replication(&info, &self.host.environment, &self.host.cancel)?;
        session.set_limit(Some(PATIENCE));
        Ok(session)
    }

    /// What is used in place of `streaming_conninfo` and `conninfo`, in Barman's words; `None` where nothing is.
    pub fn wal_overrides(&self) -> Option<String> {
        let options = &self.config.options;
        let streaming = options.wal_streaming_conninfo.as_deref()?;
        let ordinary = options.wal_conninfo.as_deref().unwrap_or(streaming);
        // Whoever reads this may not read the configuration.
        let shown =
            |text: &str| text.parse::<crate::format::conninfo::ConnInfo>().map(|info| info.to_string());
        let shown = |text: &str| shown(text).unwrap_or_else(|_| "(not a connection string)".to_owned());
        Some(format!(
            "Configuration overrides applied: 'streaming_conninfo' overridden with '{}' and 'conninfo' overridden with \
             '{}'",
            shown(streaming),
            shown(ordinary)
        ))
    }

    /// Makes the physical slot of `slot_name`; gives its name and whether it was made now.
    ///
    /// # Errors
    /// When it is there already, unless `if_not_exists`; when there is no `slot_name`.
    pub fn create_slot(&self, if_not_exists: bool, ctx: &Ctx<'_>) -> Result<(String, bool), ServerError> {
        let name = self.slot_name("Unable to create a physical replication slot")?;
        let mut stream = self.wal_streaming()?;
        ctx.info(format!("Creating physical replication slot '{name}' on server '{}'", self.name()));
        match stream.create_physical_slot(&name) {
            Ok(()) => Ok((name, true)),
            Err(error) if error.sqlstate() == Some(DUPLICATE) && if_not_exists => Ok((name, false)),
            Err(error) if error.sqlstate() == Some(DUPLICATE) => {
                Err(ServerError::Usage(format!("Replication slot '{name}' already exists")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Drops the slot of `slot_name`; gives its name.
    ///
    /// # Errors
    /// When there is none, or it is in use.
    pub fn drop_slot(&self, ctx: &Ctx<'_>) -> Result<String, ServerError> {
        let name = self.slot_name("Unable to drop a physical replication slot")?;
        let mut stream = self.wal_streaming()?;
        ctx.info(format!("Dropping physical replication slot '{name}' on server '{}'", self.name()));
        match stream.drop_slot(&name) {
            Ok(()) => Ok(name),
            Err(error) if error.sqlstate() == Some(UNDEFINED) => {
                Err(ServerError::Usage(format!("Replication slot '{name}' does not exist")))
            }
            Err(error) if error.sqlstate() == Some(IN_USE) => Err(ServerError::Usage(format!(
                "Cannot drop replication slot '{name}' on server '{}' because it is in use.",
                self.name()
            ))),
            Err(error) => Err(error.into()),
        }
    }

    fn slot_name(&self, what: &str) -> Result<String, ServerError> {
        self.enabled()?;
        let options = &self.config.options;
        if options.streaming_conninfo.is_none() && options.wal_streaming_conninfo.is_none() {
            return Err(ServerError::Usage(format!("{what}: streaming connection not configured")));
        }
        let name = options.slot_name.as_ref().map(|name| name.0.clone());
        name.ok_or_else(|| ServerError::Usage(format!("{what}: slot_name configuration option required")))
    }

    /// The slot that a receiver uses, where one is configured and there.
    pub(super) fn wal_slot(&self, session: &mut Session) -> Result<Option<ReplicationSlot>, ServerError> {
        match &self.config.options.slot_name {
            Some(name) => Ok(session.physical_slot(&name.0)?),
            None => Ok(None),
        }
    }

    /// Makes a receiver begin where the slot keeps WAL from, or else where the server stands. What was received before is
    /// archived, an unfinished segment that has content as `.partial`.
    ///
    /// # Errors
    /// [`ServerError::AheadOfServer`] when more was received than the server has; [`ServerError::ResetBlocked`].
    pub fn reset_receiver(&self, ctx: &Ctx<'_>) -> Result<Reset, ServerError> {
        self.enabled()?;
        let lock = LockName::WalReceive(self.name().clone());
        let _lock = match self.locks.try_lock(&lock, "resetting the receiver of WAL", ctx) {
            Err(source @ LockError::Busy { .. }) => {
                return Err(ServerError::ResetBlocked { server: self.name().clone(), source });
            }
            other => other?,
        };
        self.make_directories()?;
        let mut session = self.wal_session()?;
        let size = session.segment_size()?;
        let kept = self.wal_slot(&mut session)?.and_then(|slot| slot.restart_lsn);
        let mut stream = self.wal_streaming()?;
        let identity = stream.identify_system()?;
        self.settle_identity(identity.system_id, session.version())?;
        let target = SegmentName::containing(identity.timeline, kept.unwrap_or(identity.position), size);
        let streamed = self.wal.streamed()?;
        let newest = streamed.iter().rev().find_map(|name| match *name {
            WalFileName::Partial(name) => Some(name),
            WalFileName::Segment(name) => name.next(size),
            _ => None,
        });
        // With nothing here a receiver begins where the server keeps WAL from anyway.
        let Some(next) = newest else { return Ok(Reset::Aligned) };
        if next == target {
            return Ok(Reset::Aligned);
        }
        let start = next.start(size).unwrap_or_default();
        if next.timeline == identity.timeline && start > identity.position {
            return Err(ServerError::AheadOfServer { ours: start, server: identity.position });
        }
        let removed = self.clear_streamed(&streamed, target, ctx)?;
        let created = self.wal.begin_partial(target)?;
        Ok(Reset::Moved { removed, created })
    }

    /// Archives all that was received but `target`, whose absence a receiver would not notice; gives an empty file that went.
    fn clear_streamed(
        &self,
        streamed: &[WalFileName],
        target: SegmentName,
        ctx: &Ctx<'_>,
    ) -> Result<Option<Utf8PathBuf>, ServerError> {
        let dir = &self.config.options.streaming_wals_directory;
        // An archiver would take the same files.
        let lock = LockName::WalArchive(self.name().clone());
        let _lock = self.locks.lock_within(&lock, "resetting the receiver of WAL", PATIENCE, ctx)?;
        let (mut removed, mut files) = (None, Vec::new());
        for name in streamed.iter().filter(|name| **name != WalFileName::Partial(target)) {
            let path = dir.join(name.to_string());
            let size = match self.host.disk.stat(&path) {
                // The archiver was faster.
                Err(e) if e.is_not_found() => continue,
                other => other?.size,
            };
            if size == 0 && matches!(name, WalFileName::Partial(_)) {
                crate::io::durable::remove_durable(self.host.disk.as_ref(), &path)?;
                removed = Some(path);
            } else {
                files.push(Incoming { name: *name, path, remove_source: true });
            }
        }
        for taken in self.take_in(&files, ctx)? {
            match &taken.how {
                // A receiver would go on from it: it must be out of the way first.
                TakenHow::Growing | TakenHow::Failed { .. } => {
                    let why =
                        trouble(&taken).unwrap_or_else(|| format!("{} is still being written", taken.name));
                    return Err(ServerError::Usage(format!(
                        "{why}; run the command again when that is mended"
                    )));
                }
                _ => trouble(&taken).into_iter().for_each(|text| ctx.warn(text)),
            }
        }
        Ok(removed)
    }
}
