//! One server: its configuration and all the parts below, put together into the operations that users know.
//!
//! This is the only room that knows all the others. Each operation is a file; messages go to the context's sink in
//! Barman's words, results are values, and nothing is printed.

mod archive;
mod archive_hooks;
mod backup;
mod check;
mod check_live;
mod commits;
mod connect;
mod cron;
mod delete;
mod diagnose;
mod encryption;
mod error;
mod export;
mod files;
mod forecast;
mod get_wal;
mod identity;
mod incremental;
mod import;
mod kind;
mod keep;
mod listing;
mod live;
mod manifest;
mod models;
mod packing;
mod processes;
mod prune;
mod put_wal;
mod receive;
mod replication;
mod restore;
mod scripts;
mod slots;
mod switch_wal;
mod status;
mod verify_backup;
mod wal_stats;
mod wal_view;

use std::sync::Arc;

use camino::Utf8PathBuf;

use crate::catalog::{CatalogPaths, LocalCatalog};
use crate::cipher::Cipher;
use crate::codec::{self, CustomFilters, Level, Method};
use crate::config::{CompressionLevel, Globals, Operation, ServerConfig, refusals, remarks};
use crate::ctx::{Cancel, Clock, Ctx};
use crate::io::{Disk, Locks};
use crate::model::ServerName;
use crate::pg::Environment;
use crate::transport::{SshEnvironment, Transport};
use crate::wal::{Compression, EarlierClusters, LocalWalArchive, WalOptions, WalPaths};

pub use archive::{ArchiveOutcome, ArchiverRun};
pub use backup::BackupOptions;
pub use check::CheckReport;
pub use commits::CommitQuery;
pub use cron::{CronGuard, CronStart};
pub use diagnose::shown_options;
pub use error::ServerError;
pub use export::ExportOptions;
pub use files::FileTarget;
pub use forecast::Forecast;
pub use get_wal::Caller;
pub use kind::ErrorKind;
pub use listing::{CopyFigures, ListedBackup, Overview, ShownBackup, copy_figures, saved};
pub use processes::Process;
pub use prune::Pruned;
pub use replication::{ReplicationSource, ReplicationStatus, ReplicationTarget};
pub use restore::{RestoreOptions, RestoreOutcome};
pub use slots::Reset;
pub use status::StatusLine;
pub use switch_wal::Switch;
pub use verify_backup::{Verification, WalProblem};
pub use wal_stats::{BackupWal, WalSpan, WalStats};
pub use wal_view::{BackupReach, TimelineView, WalView};

/// What the operations need of the process that runs them. The CLI fills it.
#[derive(Clone)]
pub struct Host {
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What libpq would read from the process.
    pub environment: Environment,
    /// What ssh would read from the process.
    pub ssh: SshEnvironment,
    /// Ends long work when it is set.
    pub cancel: Cancel,
    /// The command as the user gave it, for those who find a lock held.
    pub command: String,
    /// The main configuration file, which hooks are told of.
    pub configuration: Utf8PathBuf,
    /// How many processors work may use at a time.
    pub workers: usize,
}

/// One protected PostgreSQL server with its catalog and its archive.
pub struct Server {
    config: ServerConfig,
    host: Host,
    locks: Locks,
    catalog: LocalCatalog,
    wal: LocalWalArchive,
}

impl Server {
    /// Puts the parts together. Directories need not exist yet; nothing is written and nobody is connected to.
    ///
    /// # Errors
    /// Options that cannot work on this host: a cloud URL where a directory is needed, an unknown custom filter.
    pub fn open(config: ServerConfig, globals: &Globals, host: Host) -> Result<Self, ServerError> {
        let options = &config.options;
        let local = |option: &'static str, location: &crate::config::Location| {
            location.local().map(ToOwned::to_owned).ok_or_else(|| ServerError::Unsupported {
                what: format!("{option} = {} (object storage)", location.as_str()),
            })
        };
        let name = config.name.clone();
        let paths = CatalogPaths {
            backup_directory: options.backup_directory.clone(),
            basebackups_directory: local("basebackups_directory", &options.basebackups_directory)?,
            meta_directory: config.meta_directory(),
            server: name.clone(),
        };
        let wal_paths = WalPaths {
            server: name,
            wals_directory: local("wals_directory", &options.wals_directory)?,
            xlogdb_directory: config.xlogdb_directory(),
            incoming_directory: options.incoming_wals_directory.clone(),
            streaming_directory: options.streaming_wals_directory.clone(),
            errors_directory: options.errors_directory.clone(),
            sidecar_directory: options.backup_directory.join(".native"),
        };
        let locks = Locks::new(globals.barman_lock_directory.clone(), host.command.clone());
        let cipher = encryption::cipher(&config, &host);
        let catalog =
            LocalCatalog::new(paths, Arc::clone(&host.disk), Arc::clone(&host.clock), locks.clone())
                .with_cipher(Arc::clone(&cipher));
        let wal_options = wal_options(&config, &host, &catalog, &cipher)?;
        let wal = LocalWalArchive::new(
            wal_paths,
            Arc::clone(&host.disk),
            Arc::clone(&host.clock),
            locks.clone(),
            wal_options,
        );
        Ok(Self { config, host, locks, catalog, wal })
    }

    /// Its name.
    pub fn name(&self) -> &ServerName {
        &self.config.name
    }

    /// Its configuration.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Its backups.
    pub fn catalog(&self) -> &LocalCatalog {
        &self.catalog
    }

    /// Its archive.
    pub fn wal(&self) -> &LocalWalArchive {
        &self.wal
    }

    /// Its locks.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// What it was given of the process.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// An error when the server is disabled, or when the configuration asks the operation for something that this
    /// version cannot do. Where the operation goes on regardless, it is told of it.
    pub(crate) fn usable(&self, operation: Operation, ctx: &Ctx<'_>) -> Result<(), ServerError> {
        self.enabled()?;
        let refused = refusals(&self.config, operation);
        if operation.stops() && !refused.is_empty() {
            return Err(ServerError::Unsupported { what: refused.join("; ") });
        }
        for text in refused.into_iter().chain(remarks(&self.config, operation)) {
            ctx.warn(text);
        }
        Ok(())
    }

    /// An error when the configuration of the server has an error.
    pub(crate) fn enabled(&self) -> Result<(), ServerError> {
        match self.config.messages.first() {
            Some(message) => Err(ServerError::Disabled { message: message.clone() }),
            None => Ok(()),
        }
    }

    /// The transport to the PostgreSQL host: this host when no ssh_command is configured.
    pub(crate) fn transport(&self) -> Result<Arc<dyn Transport>, ServerError> {
        let command = self.config.options.ssh_command.as_deref();
        self.transport_by(command, self.config.options.network_compression)
    }

    /// Makes the directories of the server that are missing.
    pub(crate) fn make_directories(&self) -> Result<(), ServerError> {
        for (_, path) in self.config.directories() {
            self.host.disk.mkdir_all(&path, 0o755)?;
        }
        Ok(())
    }

    /// The bandwidth limit in bytes a second; the configuration has it in units of 1024 bytes, as rsync.
    pub(crate) fn bandwidth(&self) -> Option<u64> {
        let limit = self.config.options.bandwidth_limit.as_ref()?.0;
        u64::try_from(limit).ok().filter(|l| *l > 0).map(|l| l.saturating_mul(1024))
    }

    pub(crate) fn tablespace_bandwidth(&self) -> std::collections::BTreeMap<String, u64> {
        let limits = self.config.options.tablespace_bandwidth_limit.as_ref();
        let rate = |limit: i64| u64::try_from(limit).unwrap_or(0).saturating_mul(1024);
        limits
            .map(|l| l.0.iter().map(|(name, limit)| (name.clone(), rate(*limit))).collect())
            .unwrap_or_default()
    }
}

fn wal_options(
    config: &ServerConfig,
    host: &Host,
    catalog: &LocalCatalog,
    cipher: &Arc<dyn Cipher>,
) -> Result<WalOptions, ServerError> {
    let options = &config.options;
    let custom_filters = match (&options.custom_compression_filter, &options.custom_decompression_filter) {
        (Some(compress), Some(decompress)) => {
            Some(CustomFilters { compress: compress.clone(), decompress: decompress.clone() })
        }
        _ => None,
    };
    let level = match options.compression_level {
        Some(CompressionLevel::Low) => Level::Low,
        Some(CompressionLevel::High) => Level::High,
        Some(CompressionLevel::Number(number)) => {
            Level::Number(i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX }))
        }
        Some(CompressionLevel::Medium) | None => Level::Medium,
    };
    let compression = match options.compression {
        None => None,
        Some(word) => {
            let method: Method = word
                .as_str()
                .parse()
                .map_err(|_| ServerError::Unsupported { what: format!("compression = {}", word.as_str()) })?;
            let compressor = codec::compressor(method, level, custom_filters.as_ref())?;
            Some(Compression { compressor: Arc::from(compressor), name: method.name().to_owned() })
        }
    };
    let magic = options.custom_compression_magic.as_deref().and_then(|text| {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        hex::decode(digits).ok()
    });
    let known = identity::known_cluster(catalog, host.disk.as_ref())?;
    let catalog = catalog.clone();
    let earlier: EarlierClusters = Arc::new(move |found| identity::segment_size_of(&catalog, found));
    Ok(WalOptions {
        compression,
        encryption: config.options.encryption.map(|_| Arc::clone(cipher)),
        decryption: Some(Arc::clone(cipher)),
        custom_filters,
        custom_magic: magic,
        system_id: known.system_id,
        segment_size: known.segment_size,
        earlier: Some(earlier),
        workers: host.workers,
    })
}

/// Where the identity of the cluster lies.
pub(crate) fn identity_path(config: &ServerConfig) -> Utf8PathBuf {
    config.options.backup_directory.join("identity.json")
}
