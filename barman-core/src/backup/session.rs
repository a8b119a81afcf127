//! [`PgBackupServer`]: the session with a real server that a concurrent backup lives in.

use std::time::Duration;

use time::OffsetDateTime;

use crate::ctx::Cancelled;
use crate::model::BackupId;
use crate::pg::{PgError, Session};

use super::{BackupError, BackupServer, End, ServerFacts, Started};

/// How long a sign of life may take before the session counts as lost: far more than any server needs for it, far less
/// than TCP waits for a host that is gone.
const SIGN_OF_LIFE: Duration = Duration::from_secs(300);

/// How long leaving backup mode after a failure may take; closing the session does the same.
const FAREWELL: Duration = Duration::from_secs(30);

/// A concurrent (non-exclusive) backup on a PostgreSQL session.
pub struct PgBackupServer {
    session: Session,
}

impl PgBackupServer {
    /// Uses the session for one backup.
    pub fn new(session: Session) -> Self {
        Self { session }
    }
}

fn failed(action: &'static str) -> impl Fn(PgError) -> BackupError {
    move |source| match source {
        PgError::Cancelled => BackupError::Cancelled(Cancelled),
        source if source.is_lost() => BackupError::SessionLost,
        source => BackupError::Server { action, source },
    }
}

impl BackupServer for PgBackupServer {
    fn facts(&mut self) -> Result<ServerFacts, BackupError> {
        let session = &mut self.session;
        let error = failed("detecting data directory");
        // It has to live as long as the copy.
        session.prepare_backup_session().map_err(&error)?;
        let files = session.config_files().map_err(&error)?;
        let checksums = session.show("data_checksums").map_err(&error)?;
        let summarize = match session.version().has_wal_summaries() {
            true => session.show("summarize_wal").map_err(&error)?,
            false => None,
        };
        let (block_size, blocks_per_file) = session.page_layout().map_err(&error)?;
        Ok(ServerFacts {
            system_id: session.system_id().map_err(&error)?,
            version: session.version(),
            segment_size: session.segment_size().map_err(&error)?,
            pgdata: session.data_directory().map_err(&error)?,
            tablespaces: session.tablespaces().map_err(failed("detecting tablespaces"))?,
            // A role without the right to see the size of a tablespace can still take a backup.
            cluster_size: session.cluster_size().ok(),
            config_file: files.config,
            hba_file: files.hba,
            ident_file: files.ident,
            included_files: files.included,
            block_size,
            blocks_per_file,
            data_checksums: checksums.as_deref() == Some("on"),
            summarize_wal: summarize.map(|v| v == "on"),
        })
    }

    fn start(&mut self, label: &str, fast: bool) -> Result<Started, BackupError> {
        let start = self.session.start_backup(label, fast).map_err(failed("issuing start backup command"))?;
        Ok(Started { lsn: start.lsn, timeline: start.timeline, time: start.time })
    }

    fn now(&mut self) -> Result<OffsetDateTime, BackupError> {
        self.session.now().map_err(failed("asking for the time"))
    }

    fn ping(&mut self) -> Result<(), BackupError> {
        self.session.set_limit(Some(SIGN_OF_LIFE));
        let alive = self.session.ping();
        self.session.set_limit(None);
        alive.map_err(|error| match error {
            PgError::Cancelled => BackupError::Cancelled(Cancelled),
            _ => BackupError::SessionLost,
        })
    }

    fn abandon(&mut self) -> Result<(), BackupError> {
        self.session.set_limit(Some(FAREWELL));
        self.stop().map(drop)
    }

    fn stop(&mut self) -> Result<End, BackupError> {
        let stop =
            self.session.stop_backup().map_err(failed("issuing stop backup command (native concurrent)"))?;
        Ok(End {
            lsn: stop.lsn,
            timeline: stop.timeline,
            time: stop.time,
            label: stop.label,
            tablespace_map: stop.tablespace_map,
        })
    }

    fn settle(&mut self, id: &BackupId) -> Result<(), BackupError> {
        let error = failed("switching to a new WAL segment");
        if !self.session.is_in_recovery().map_err(&error)? {
            self.session.switch_wal().map_err(&error)?;
            let point = format!("barman_{id}");
            self.session.create_restore_point(&point).map_err(failed("creating a restore point"))?;
        }
        Ok(())
    }
}
