//! The scripts around operations: which are configured, what they are told, and when they run. Those around archiving stand in
//! `archive_hooks`.
//!
//! What a script is told is Barman's (its environment was compared variable by variable). After an operation that failed only
//! those around a backup run, as with Barman: a script after a restore that starts the server must not start half of one.

use std::collections::HashMap;
use std::time::Duration;

use time::{OffsetDateTime, UtcOffset};

use super::{RestoreOptions, Server, ServerError};
use crate::catalog::{Catalog, Purpose};
use crate::ctx::{Cancel, Cancelled, Clock, Ctx};
use crate::hooks::{HookHost, Phase, Script};
use crate::model::{BackupId, BackupInfo, WalFileName};
use crate::policy::prune;
use crate::wal::{WalArchive, WalEntry, WalRange};

/// With scripts so many WAL files are deleted together.
const FILES: usize = 64;
/// After an interruption, scripts that clean up have this long.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// An operation with scripts around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Around {
    Archive,
    Backup,
    Delete,
    WalDelete,
    Recovery,
}

impl Around {
    fn word(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Backup => "backup",
            Self::Delete => "delete",
            Self::WalDelete => "wal_delete",
            Self::Recovery => "recovery",
        }
    }
}

/// What scripts are told beside what all are.
pub(super) type Told = Vec<(&'static str, String)>;

impl Server {
    /// What every hook of this server is told.
    pub(crate) fn hook_host(&self) -> HookHost {
        let prefix = self.config.options.path_prefix.iter().flat_map(|prefix| prefix.split(':'));
        let own: Vec<_> = prefix.filter(|dir| !dir.is_empty()).map(camino::Utf8PathBuf::from).collect();
        // Without a prefix the search path of this process is inherited as it is.
        let path = if own.is_empty() {
            own
        } else {
            own.into_iter().chain(self.host.ssh.path.iter().cloned()).collect()
        };
        HookHost { server: self.name().to_string(), configuration: self.host.configuration.clone(), path }
    }

    /// The configured scripts, in the order in which they run: before an operation the plain one first, after it last.
    pub(super) fn scripts(&self, around: Around, phase: Phase) -> Vec<Script<'_>> {
        let options = &self.config.options;
        let (plain, retry) = match (around, phase) {
            (Around::Archive, Phase::Pre) => (&options.pre_archive_script, &options.pre_archive_retry_script),
            (Around::Archive, Phase::Post) => {
                (&options.post_archive_script, &options.post_archive_retry_script)
            }
            (Around::Backup, Phase::Pre) => (&options.pre_backup_script, &options.pre_backup_retry_script),
            (Around::Backup, Phase::Post) => (&options.post_backup_script, &options.post_backup_retry_script),
            (Around::Delete, Phase::Pre) => (&options.pre_delete_script, &options.pre_delete_retry_script),
            (Around::Delete, Phase::Post) => (&options.post_delete_script, &options.post_delete_retry_script),
            (Around::WalDelete, Phase::Pre) => {
                (&options.pre_wal_delete_script, &options.pre_wal_delete_retry_script)
            }
            (Around::WalDelete, Phase::Post) => {
                (&options.post_wal_delete_script, &options.post_wal_delete_retry_script)
            }
            (Around::Recovery, Phase::Pre) => {
                (&options.pre_recovery_script, &options.pre_recovery_retry_script)
            }
            (Around::Recovery, Phase::Post) => {
                (&options.post_recovery_script, &options.post_recovery_retry_script)
            }
        };
        let mut both = [(false, plain), (true, retry)];
        if phase == Phase::Post {
            both.reverse();
        }
        both.into_iter()
            .filter_map(|(retry, command)| {
                let command = command.as_deref()?;
                Some(Script { operation: around.word(), phase, retry, command })
            })
            .collect()
    }

    /// Runs the scripts of one moment; what they are told is put together only where there are any.
    ///
    /// # Errors
    /// When a retry script before the operation says that it must not go on, and cancellation.
    pub(super) fn run_scripts(
        &self,
        around: Around,
        phase: Phase,
        told: &dyn Fn() -> Result<Told, ServerError>,
        ctx: &Ctx<'_>,
    ) -> Result<(), ServerError> {
        let scripts = self.scripts(around, phase);
        if scripts.is_empty() {
            return Ok(());
        }
        let (host, told) = (self.hook_host(), told()?);
        for script in scripts {
            script.run(&host, &told, ctx)?;
        }
        Ok(())
    }

    /// What scripts are told of a backup.
    pub(super) fn told_of_backup(&self, info: &BackupInfo) -> Result<Told, ServerError> {
        let paths = self.catalog.paths();
        let available: Vec<BackupId> =
            self.catalog.survey()?.backups.iter().filter(|b| b.status.is_available()).map(|b| b.id).collect();
        let text = |id: Option<&BackupId>| id.map(ToString::to_string).unwrap_or_default();
        Ok(vec![
            ("BARMAN_BACKUP_DIR", paths.base(&info.id).to_string()),
            ("BARMAN_BACKUP_INFO_PATH", paths.info(&info.id).to_string()),
            ("BARMAN_BACKUP_ID", info.id.to_string()),
            ("BARMAN_PREVIOUS_ID", text(available.iter().rfind(|id| **id < info.id))),
            ("BARMAN_NEXT_ID", text(available.iter().find(|id| **id > info.id))),
            ("BARMAN_STATUS", info.status.to_string()),
            ("BARMAN_ERROR", info.error.clone().unwrap_or_default()),
        ])
    }

    /// What scripts are told of a restore.
    pub(super) fn told_of_restore(
        &self,
        info: &BackupInfo,
        options: &RestoreOptions,
    ) -> Result<Told, ServerError> {
        let mut told = self.told_of_backup(info)?;
        let tablespaces = match options.tablespaces.is_empty() {
            true => String::new(),
            false => {
                let places = options
                    .tablespaces
                    .iter()
                    .map(|(name, place)| format!("{}: {}", python_json(name), python_json(place.as_str())));
                format!("{{{}}}", places.collect::<Vec<_>>().join(", "))
            }
        };
        told.extend([
            ("BARMAN_DESTINATION_DIRECTORY", options.destination.to_string()),
            ("BARMAN_TABLESPACES", tablespaces),
            ("BARMAN_REMOTE_COMMAND", options.remote.clone().unwrap_or_default()),
            ("BARMAN_RECOVER_OPTIONS", options.told.clone()),
        ]);
        Ok(told)
    }

    /// Runs what is configured for after a backup that has been taken.
    pub(super) fn after_backup(&self, id: &BackupId, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        if self.scripts(Around::Backup, Phase::Post).is_empty() {
            return Ok(());
        }
        // Scripts are told of a backup that stays there meanwhile. Where somebody is just checking it, they run all the same.
        let _lease = self.catalog.lease(id, Purpose::Backup).ok();
        self.last_scripts(id, ctx)
    }

    /// Those after a backup, whatever became of it. After an interruption they have a minute to clean up.
    fn last_scripts(&self, id: &BackupId, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let told = || self.told_of_backup(&self.catalog.get(id)?);
        if !ctx.cancel.is_cancelled() {
            return self.run_scripts(Around::Backup, Phase::Post, &told, ctx);
        }
        let clock = Limited { clock: ctx.clock, until: ctx.clock.monotonic() + LAST_WORDS };
        let fresh = Cancel::new();
        self.run_scripts(Around::Backup, Phase::Post, &told, &Ctx { clock: &clock, cancel: &fresh, ..*ctx })
    }

    /// Runs what is configured for after a backup that has failed. Its failure is what counts, so that nothing of this is an
    /// error.
    pub(super) fn after_failed_backup(&self, id: &BackupId, ctx: &Ctx<'_>) {
        if let Err(error) = self.last_scripts(id, ctx) {
            ctx.warn(format!("The scripts after the failed backup {id} have not all run: {error}"));
        }
    }

    /// Whether scripts run around the deletion of WAL.
    pub(super) fn has_wal_delete_scripts(&self) -> bool {
        [Phase::Pre, Phase::Post].iter().any(|phase| !self.scripts(Around::WalDelete, *phase).is_empty())
    }

    /// Removes WAL with the scripts around it; gives what is gone. While scripts run, nothing is locked, so that it is asked
    /// again before each removal what nobody needs.
    pub(super) fn remove_wal(
        &self,
        names: &[WalFileName],
        ctx: &Ctx<'_>,
    ) -> Result<Vec<WalFileName>, ServerError> {
        if !self.has_wal_delete_scripts() || names.is_empty() {
            self.wal.remove(names)?;
            return Ok(names.to_vec());
        }
        let mut entries: HashMap<WalFileName, WalEntry> = HashMap::new();
        let range = WalRange { from: names.iter().min().copied(), to: names.iter().max().copied() };
        self.wal.scan(&range, &mut |entry| {
            entries.insert(entry.name, entry);
            std::ops::ControlFlow::Continue(())
        })?;
        let told = |name: &WalFileName, error: &str| {
            let path = self.wal.paths().file(name);
            let entry = entries.get(name);
            super::archive_hooks::told_of_wal(name, path.as_str(), entry, error)
        };
        let mut gone = Vec::new();
        for some in names.chunks(FILES) {
            for name in some {
                self.run_scripts(Around::WalDelete, Phase::Pre, &|| Ok(told(name, "")), ctx)?;
            }
            let estate = self.estate()?;
            let still = prune::still_removable(some, &estate.held(), &estate.histories);
            let removed = self.wal.remove(&still);
            let error = removed.as_ref().err().map(ToString::to_string).unwrap_or_default();
            for name in &still {
                self.run_scripts(Around::WalDelete, Phase::Post, &|| Ok(told(name, &error)), ctx)?;
            }
            removed?;
            gone.extend(still);
        }
        Ok(gone)
    }
}

/// A string in JSON as Python writes it.
fn python_json(text: &str) -> String {
    crate::format::manifest::ascii_json(text)
}

/// A clock whose pauses end with a limit.
struct Limited<'a> {
    clock: &'a dyn Clock,
    until: Duration,
}

impl Clock for Limited<'_> {
    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    fn offset_at(&self, instant: OffsetDateTime) -> UtcOffset {
        self.clock.offset_at(instant)
    }

    fn pause(&self, length: Duration, cancel: &Cancel) -> Result<(), Cancelled> {
        let left = self.until.saturating_sub(self.clock.monotonic());
        self.clock.pause(length.min(left), cancel)?;
        if length > left { Err(Cancelled) } else { Ok(()) }
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}
