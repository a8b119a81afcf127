//! The scripts around the archiving of a WAL file.

use super::scripts::{Around, Told};
use super::{Server, ServerError};
use crate::ctx::Ctx;
use crate::hooks::Phase;
use crate::model::WalFileName;
use crate::wal::{Incoming, Taken, TakenHow, WalEntry};

/// With scripts so many files are archived together.
const FILES: usize = 16;

impl Server {
    /// How many files are archived before their scripts run: without any, all at once.
    pub(super) fn files_between_scripts(&self) -> usize {
        let any =
            [Phase::Pre, Phase::Post].iter().any(|phase| !self.scripts(Around::Archive, *phase).is_empty());
        if any { FILES } else { usize::MAX }
    }

    /// Runs what is configured for before a file is archived.
    ///
    /// # Errors
    /// When a retry script says that it must not go on.
    pub(super) fn before_archiving(&self, file: &Incoming, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let scripts = self.scripts(Around::Archive, Phase::Pre);
        if scripts.is_empty() {
            return Ok(());
        }
        // What vanished meanwhile has nothing to tell; the intake says so.
        let Ok(stat) = self.host.disk.stat(&file.path) else { return Ok(()) };
        let entry = WalEntry {
            name: file.name,
            size: stat.size,
            mtime: stat.mtime,
            compression: None,
            encryption: None,
            indexed: false,
        };
        let facts = told_of_wal(&file.name, file.path.as_str(), Some(&entry), "");
        let host = self.hook_host();
        for script in scripts {
            script.run(&host, &facts, ctx)?;
        }
        Ok(())
    }

    /// Runs what is configured for after files were archived, or were not.
    pub(super) fn after_archiving(&self, taken: &[Taken], ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let scripts = self.scripts(Around::Archive, Phase::Post);
        if scripts.is_empty() {
            return Ok(());
        }
        let host = self.hook_host();
        for taken in taken {
            let path = self.wal.paths().file(&taken.name);
            let (entry, error) = match &taken.how {
                TakenHow::Archived(entry) | TakenHow::Replaced(entry) => (Some(entry), String::new()),
                // It is for the next run.
                TakenHow::Growing => continue,
                TakenHow::Known => (None, "the same file is archived already".to_owned()),
                TakenHow::Conflict { .. } => (None, "another file of that name is archived".to_owned()),
                TakenHow::Refused { reason, .. } | TakenHow::Failed { reason } => (None, reason.clone()),
            };
            let facts = told_of_wal(&taken.name, path.as_str(), entry, &error);
            for script in &scripts {
                script.run(&host, &facts, ctx)?;
            }
        }
        Ok(())
    }
}

/// What scripts are told of a WAL file.
pub(super) fn told_of_wal(name: &WalFileName, path: &str, entry: Option<&WalEntry>, error: &str) -> Told {
    let time = entry.map(|entry| entry.mtime.as_nanos() as f64 / 1e9);
    vec![
        ("BARMAN_SEGMENT", name.to_string()),
        ("BARMAN_FILE", path.to_owned()),
        ("BARMAN_SIZE", entry.map_or_else(String::new, |entry| entry.size.to_string())),
        ("BARMAN_TIMESTAMP", time.map_or_else(String::new, |time| format!("{time:?}"))),
        ("BARMAN_COMPRESSION", entry.and_then(|entry| entry.compression.clone()).unwrap_or_default()),
        ("BARMAN_ERROR", error.to_owned()),
    ]
}
