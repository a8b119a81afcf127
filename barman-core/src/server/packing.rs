//! `backup_compression` and its companions: who packs a base backup, and what of it is stored.

use std::sync::Arc;

use super::{Server, ServerError};
use crate::backup::{Packing, ServerPacking};
use crate::codec::{self, Algorithm, Level};
use crate::config::{BackupCompression, BackupFormat, BackupMethod, CompressionLocation};
use crate::pg::ServerCompression;

/// The algorithm, and the ending of the names of archives.
fn kind(wanted: BackupCompression) -> (Algorithm, &'static str) {
    match wanted {
        BackupCompression::Gzip => (Algorithm::Gzip, "tar.gz"),
        BackupCompression::Lz4 => (Algorithm::Lz4, "tar.lz4"),
        BackupCompression::Zstd => (Algorithm::Zstd, "tar.zst"),
        BackupCompression::None => (Algorithm::None, "tar"),
    }
}

/// What is wrong with the level, in Barman's words.
fn level_trouble(algorithm: Algorithm, level: i64) -> Option<String> {
    let (name, range, usual, allowed) = match algorithm {
        Algorithm::Gzip => ("gzip", "1 and 9", -1, level == -1 || (1..=9).contains(&level)),
        Algorithm::Lz4 => ("lz4", "1 and 12", 0, (0..=12).contains(&level)),
        Algorithm::Zstd => ("'zstd'", "-131072 and 22", 3, (-131_072..=22).contains(&level)),
        _ if level == 0 => return None,
        _ => return Some("backup_compression none only supports backup_compression_level 0.".to_owned()),
    };
    if allowed {
        return None;
    }
    let hint =
        "\nIf you need to create an archive not compressed, you should set `backup_compression = none`.";
    let hint = if algorithm == Algorithm::Gzip && level == 0 { hint } else { "" };
    Some(format!(
        "backup_compression_level {level} unsupported by compression algorithm. {name} expects a compression level between \
         {range} ({usual} will use default compression level).{hint}"
    ))
}

impl Server {
    /// Whether the options about packing go together.
    ///
    /// # Errors
    /// When they do not, in Barman's words.
    pub(super) fn judge_packing(&self) -> Result<(), ServerError> {
        let options = &self.config.options;
        let postgres = options.backup_method == BackupMethod::Postgres;
        let Some(wanted) = options.backup_compression.filter(|_| postgres) else { return Ok(()) };
        let (algorithm, _) = kind(wanted);
        let trouble = options.backup_compression_level.and_then(|level| level_trouble(algorithm, level));
        let workers = || match (options.backup_compression_workers, algorithm) {
            (Some(workers), Algorithm::Zstd) if workers < 0 => Some(format!(
                "backup_compression_workers should be a positive integer: '{workers}' is invalid."
            )),
            (None, _) | (_, Algorithm::Zstd) => None,
            (Some(_), Algorithm::Gzip) => {
                Some("backup_compression_workers is not compatible with compression gzip".to_owned())
            }
            (Some(_), Algorithm::Lz4) => {
                Some("backup_compression_workers is not compatible with compression lz4.".to_owned())
            }
            _ => Some("backup_compression_workers is not compatible with compression 'none'.".to_owned()),
        };
        let format = || {
            let location = options.backup_compression_location.map_or("None", CompressionLocation::as_str);
            let text = "backup_compression_format plain is not compatible with backup_compression_location";
            (!self.stores_archives() && !self.server_packs()).then(|| format!("{text} {location}"))
        };
        trouble.or_else(workers).or_else(format).map_or(Ok(()), |text| Err(ServerError::Usage(text)))
    }

    /// Whether archives are stored at all. Files are where `backup_compression_format = plain`, which packs for the wire only.
    fn stores_archives(&self) -> bool {
        self.config.options.backup_compression_format != Some(BackupFormat::Plain)
    }

    fn server_packs(&self) -> bool {
        self.config.options.backup_compression_location == Some(CompressionLocation::Server)
    }

    /// `compression` of `backup.info`.
    pub(super) fn recorded_compression(&self) -> Option<String> {
        let wanted = self.config.options.backup_compression.filter(|_| self.stores_archives());
        wanted.map(|wanted| wanted.as_str().to_owned())
    }

    /// How the archives of a base backup are packed here, where `backup_compression` asks for that.
    pub(super) fn packing(&self) -> Result<Option<Packing>, ServerError> {
        let options = &self.config.options;
        let Some(wanted) = options.backup_compression.filter(|_| self.stores_archives()) else {
            return Ok(None);
        };
        let (algorithm, ending) = kind(wanted);
        // Without a level that of pg_basebackup.
        let usual = match algorithm {
            Algorithm::Lz4 => 0,
            Algorithm::Zstd => 3,
            _ => 6,
        };
        let level =
            options.backup_compression_level.filter(|level| (algorithm, *level) != (Algorithm::Gzip, -1));
        let level = level.unwrap_or(usual);
        let level =
            Level::Number(i32::try_from(level).unwrap_or(if level < 0 { i32::MIN } else { i32::MAX }));
        let compressor = Arc::from(codec::packing(algorithm, level)?);
        let own = options.backup_compression_workers.and_then(|n| usize::try_from(n).ok());
        let most = self.host.workers.max(1).saturating_mul(4);
        let workers = own.filter(|n| *n > 0).unwrap_or(self.host.workers).clamp(1, most);
        Ok(Some(Packing { compressor, workers, ending }))
    }

    /// What the server is asked to pack.
    pub(super) fn server_packing(&self) -> Option<ServerPacking> {
        let options = &self.config.options;
        let (algorithm, ending) = kind(options.backup_compression.filter(|_| self.server_packs())?);
        if algorithm == Algorithm::None {
            return None;
        }
        let request = ServerCompression {
            algorithm,
            level: options.backup_compression_level,
            workers: options.backup_compression_workers.filter(|_| algorithm == Algorithm::Zstd),
        };
        Some(ServerPacking { request, ending: self.stores_archives().then_some(ending) })
    }
}
