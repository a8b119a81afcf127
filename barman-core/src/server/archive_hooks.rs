//! The scripts around the archiving of a WAL file.

use super::{Server, ServerError};
use crate::ctx::Ctx;
use crate::hooks::{HookHost, Phase, Script};
use crate::model::WalFileName;
use crate::wal::{Incoming, Taken, TakenHow, WalEntry};

/// With scripts so many files are archived together.
const FILES: usize = 16;

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

    /// How many files are archived before their scripts run: without any, all at once.
    pub(super) fn files_between_scripts(&self) -> usize {
        let any =
            !self.archive_scripts(Phase::Pre).is_empty() || !self.archive_scripts(Phase::Post).is_empty();
        if any { FILES } else { usize::MAX }
    }

    fn archive_scripts(&self, phase: Phase) -> Vec<Script<'_>> {
        let options = &self.config.options;
        let configured = match phase {
            Phase::Pre => [(false, &options.pre_archive_script), (true, &options.pre_archive_retry_script)],
            Phase::Post => {
                [(true, &options.post_archive_retry_script), (false, &options.post_archive_script)]
            }
        };
        configured
            .into_iter()
            .filter_map(|(retry, command)| {
                let command = command.as_deref()?;
                Some(Script { operation: "archive", phase, retry, command })
            })
            .collect()
    }

    /// Runs what is configured for before a file is archived.
    ///
    /// # Errors
    /// When a retry script says that it must not go on.
    pub(super) fn before_archiving(&self, file: &Incoming, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let scripts = self.archive_scripts(Phase::Pre);
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
        let facts = facts(&file.name, file.path.as_str(), Some(&entry), "");
        let host = self.hook_host();
        for script in scripts {
            script.run(&host, &facts, ctx)?;
        }
        Ok(())
    }

    /// Runs what is configured for after files were archived, or were not.
    pub(super) fn after_archiving(&self, taken: &[Taken], ctx: &Ctx<'_>) -> Result<(), ServerError> {
        let scripts = self.archive_scripts(Phase::Post);
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
            let facts = facts(&taken.name, path.as_str(), entry, &error);
            for script in &scripts {
                script.run(&host, &facts, ctx)?;
            }
        }
        Ok(())
    }
}

fn facts(
    name: &WalFileName,
    path: &str,
    entry: Option<&WalEntry>,
    error: &str,
) -> Vec<(&'static str, String)> {
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
