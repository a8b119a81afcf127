//! Questions about the server as a whole: identity, settings, files, tablespaces, sizes, the archiver.

use camino::Utf8PathBuf;
use time::OffsetDateTime;

use super::error::PgError;
use super::instant::Instant;
use super::query::Row;
use super::session::Session;
use crate::model::{Oid, SegmentSize, SystemId, Tablespace, Timeline, WalFileName};

/// A row of `pg_settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The value in [`Setting::unit`].
    pub value: String,
    /// `s`, `ms`, `8kB` …, if the setting is a quantity.
    pub unit: Option<String>,
    /// The value as `SHOW` prints it, with its unit: `5min`.
    pub shown: String,
}

/// Where the server's configuration lies, as the server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFiles {
    /// `config_file`.
    pub config: Option<Utf8PathBuf>,
    /// `hba_file`.
    pub hba: Option<Utf8PathBuf>,
    /// `ident_file`.
    pub ident: Option<Utf8PathBuf>,
    /// Other files that settings in force come from, sorted; empty for a role that may not see it.
    pub included: Vec<Utf8PathBuf>,
}

/// `pg_stat_archiver`, with what Barman makes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchiverStats {
    /// Files archived since the statistics were reset.
    pub archived_count: u64,
    /// The last file archived.
    pub last_archived_wal: Option<String>,
    /// When.
    pub last_archived_time: Option<OffsetDateTime>,
    /// Failures since the statistics were reset.
    pub failed_count: u64,
    /// The last file that failed.
    pub last_failed_wal: Option<String>,
    /// When.
    pub last_failed_time: Option<OffsetDateTime>,
    /// When the statistics were reset.
    pub stats_reset: Option<OffsetDateTime>,
    /// `archive_mode`: `on`, `off`, `always`.
    pub archive_mode: String,
    /// Files a second since the statistics were reset.
    pub archived_per_second: Option<f64>,
    /// The server's clock.
    pub now: OffsetDateTime,
}

impl ArchiverStats {
    /// Whether archiving is on and its last attempt did not fail, by Barman's rule: a failure counts unless it is older
    /// than the last success, or is that of a history file of a timeline that is already archived.
    pub fn is_archiving(&self) -> bool {
        if !matches!(self.archive_mode.as_str(), "on" | "always") {
            return false;
        }
        let Some(failed) = &self.last_failed_wal else { return true };
        if let (Ok(WalFileName::History(failed)), Some(Ok(archived))) = (
            failed.parse::<WalFileName>(),
            self.last_archived_wal.as_ref().map(|name| name.parse::<WalFileName>()),
        ) && failed <= archived.timeline()
        {
            return true;
        }
        matches!((self.last_failed_time, self.last_archived_time), (Some(f), Some(a)) if f <= a)
    }
}

impl Session {
    /// The version as the server words it: the second word of `version()`, without the last component for
    /// EnterpriseDB's own builds.
    ///
    /// # Errors
    /// When the server does not answer, or the answer has no second word.
    pub fn version_text(&mut self) -> Result<String, PgError> {
        let text = self.required_scalar("SELECT pg_catalog.version()")?;
        let mut words = text.split_whitespace();
        let product = words.next().unwrap_or_default();
        let number = words.next().ok_or_else(|| PgError::answer(format!("version() gave '{text}'")))?;
        Ok(match number.rsplit_once('.') {
            Some((kept, _)) if product == "EnterpriseDB" => kept.to_owned(),
            _ => number.to_owned(),
        })
    }

    /// The cluster's system identifier, from `pg_control_system()`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn system_id(&mut self) -> Result<SystemId, PgError> {
        // SQL has no unsigned type: the upper half of the range comes as negative numbers.
        let text = self.required_scalar("SELECT system_identifier FROM pg_catalog.pg_control_system()")?;
        let id: i64 = text.parse().map_err(|_| PgError::answer(format!("system_identifier is '{text}'")))?;
        Ok(SystemId::new(id.cast_unsigned()))
    }

    /// The size of a WAL segment.
    ///
    /// # Errors
    /// When the server does not answer, or gives a size that PostgreSQL does not have.
    pub fn segment_size(&mut self) -> Result<SegmentSize, PgError> {
        // Before 11 the setting counts blocks.
        let sql = if self.version().has_variable_segment_size() {
            "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'"
        } else {
            "SELECT s.setting::bigint * b.setting::bigint FROM pg_catalog.pg_settings s, pg_catalog.pg_settings b \
             WHERE s.name = 'wal_segment_size' AND b.name = 'wal_block_size'"
        };
        let text = self.required_scalar(sql)?;
        text.parse()
            .ok()
            .and_then(|bytes| SegmentSize::from_bytes(bytes).ok())
            .ok_or_else(|| PgError::answer(format!("wal_segment_size is '{text}'")))
    }

    /// The timeline of the last checkpoint or restartpoint, from `pg_control_checkpoint()`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn checkpoint_timeline(&mut self) -> Result<Timeline, PgError> {
        self.query_one("SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()")?
            .single()?
            .parse("timeline_id")
    }

    /// Whether the server is a standby, or recovers for another reason.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn is_in_recovery(&mut self) -> Result<bool, PgError> {
        Ok(self.required_scalar("SELECT pg_catalog.pg_is_in_recovery()")? == "t")
    }

    /// A setting as `SHOW` prints it, with its unit; `None` when this server does not have it.
    ///
    /// # Errors
    /// When the role may not see it.
    pub fn show(&mut self, name: &str) -> Result<Option<String>, PgError> {
        let answer = self.query_with("SELECT pg_catalog.current_setting($1, true)", &[Some(name)])?;
        Ok(answer.scalar()?.map(str::to_owned))
    }

    /// A row of `pg_settings`; `None` when this server does not have it or the role may not see it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn setting(&mut self, name: &str) -> Result<Option<Setting>, PgError> {
        let sql = "SELECT setting, unit, pg_catalog.current_setting(name, true) AS shown \
                   FROM pg_catalog.pg_settings WHERE name = pg_catalog.lower($1)";
        let answer = self.query_with(sql, &[Some(name)])?;
        answer
            .iter()
            .next()
            .map(|row| {
                Ok(Setting {
                    value: row.required("setting")?.to_owned(),
                    unit: row.text("unit")?.map(str::to_owned),
                    shown: row.text("shown")?.unwrap_or_default().to_owned(),
                })
            })
            .transpose()
    }

    /// Bytes of a page (`BLCKSZ`), and pages of a file of a relation (`RELSEG_SIZE`).
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn page_layout(&mut self) -> Result<(u32, u32), PgError> {
        let mut number = |name: &str| {
            let value = self.setting(name)?.and_then(|setting| setting.value.parse().ok());
            value.ok_or_else(|| PgError::answer(format!("no value of {name}")))
        };
        Ok((number("block_size")?, number("segment_size")?))
    }

    /// The data directory.
    ///
    /// # Errors
    /// When the role may not see it (SQLSTATE 42501).
    pub fn data_directory(&mut self) -> Result<Utf8PathBuf, PgError> {
        self.required_scalar("SELECT pg_catalog.current_setting('data_directory')").map(Utf8PathBuf::from)
    }

    /// The configuration files.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn config_files(&mut self) -> Result<ConfigFiles, PgError> {
        let answer = self.query_one(
            "SELECT name, setting FROM pg_catalog.pg_settings \
             WHERE name IN ('config_file', 'hba_file', 'ident_file')",
        )?;
        let mut files = ConfigFiles { config: None, hba: None, ident: None, included: Vec::new() };
        for row in answer.iter() {
            let path = row.text("setting")?.filter(|text| !text.is_empty()).map(Utf8PathBuf::from);
            match row.required("name")? {
                "config_file" => files.config = path,
                "hba_file" => files.hba = path,
                _ => files.ident = path,
            }
        }
        let included = self.query_one(
            "SELECT DISTINCT sourcefile AS file FROM pg_catalog.pg_settings \
             WHERE sourcefile IS NOT NULL AND sourcefile <> '' ORDER BY 1",
        )?;
        for row in included.iter() {
            let file = Utf8PathBuf::from(row.required("file")?);
            if files.config.as_ref() != Some(&file) {
                files.included.push(file);
            }
        }
        // The server sorts by its collation; paths are sorted bytewise.
        files.included.sort();
        Ok(files)
    }

    /// The tablespaces with a location of their own, by identifier.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn tablespaces(&mut self) -> Result<Vec<Tablespace>, PgError> {
        let answer = self.query_one(
            "SELECT spcname, oid, pg_catalog.pg_tablespace_location(oid) AS location \
             FROM pg_catalog.pg_tablespace WHERE pg_catalog.pg_tablespace_location(oid) <> '' ORDER BY oid",
        )?;
        answer
            .iter()
            .map(|row| {
                Ok(Tablespace {
                    name: row.required("spcname")?.to_owned(),
                    oid: row.parse::<Oid>("oid")?,
                    location: row.required("location")?.into(),
                })
            })
            .collect()
    }

    /// Bytes in all tablespaces together.
    ///
    /// # Errors
    /// When the role may not see the size of one (SQLSTATE 42501).
    pub fn cluster_size(&mut self) -> Result<u64, PgError> {
        self.query_one(
            "SELECT pg_catalog.sum(pg_catalog.pg_tablespace_size(oid)) AS size FROM pg_catalog.pg_tablespace",
        )?
        .single()?
        .parse("size")
    }

    /// The state of the archiver.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn archiver_stats(&mut self) -> Result<ArchiverStats, PgError> {
        let answer = self.query_one(
            "SELECT a.*, pg_catalog.current_setting('archive_mode') AS archive_mode, pg_catalog.now() AS now, \
             CASE WHEN pg_catalog.now() > stats_reset THEN \
             archived_count / EXTRACT(EPOCH FROM pg_catalog.now() - stats_reset) END AS rate \
             FROM pg_catalog.pg_stat_archiver a",
        )?;
        let row = answer.single()?;
        let text = |column| Ok::<_, PgError>(row.text(column)?.map(str::to_owned));
        Ok(ArchiverStats {
            archived_count: row.parse("archived_count")?,
            last_archived_wal: text("last_archived_wal")?,
            last_archived_time: instant(&row, "last_archived_time")?,
            failed_count: row.parse("failed_count")?,
            last_failed_wal: text("last_failed_wal")?,
            last_failed_time: instant(&row, "last_failed_time")?,
            stats_reset: instant(&row, "stats_reset")?,
            archive_mode: row.required("archive_mode")?.to_owned(),
            archived_per_second: row.optional("rate")?,
            now: row.parse::<Instant>("now")?.0,
        })
    }

    /// The only value of a statement that has one.
    pub(super) fn required_scalar(&mut self, sql: &str) -> Result<String, PgError> {
        let answer = self.query_one(sql)?;
        answer.scalar()?.map(str::to_owned).ok_or_else(|| PgError::answer("null where a value was expected"))
    }
}

fn instant(row: &Row<'_>, column: &str) -> Result<Option<OffsetDateTime>, PgError> {
    Ok(row.optional::<Instant>(column)?.map(|instant| instant.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archiving_is_judged_by_the_last_attempt() {
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).ok();
        let stats = |mode: &str, archived: Option<(&str, i64)>, failed: Option<(&str, i64)>| ArchiverStats {
            archived_count: 0,
            last_archived_wal: archived.map(|(name, _)| name.to_owned()),
            last_archived_time: archived.and_then(|(_, time)| at(time)),
            failed_count: 0,
            last_failed_wal: failed.map(|(name, _)| name.to_owned()),
            last_failed_time: failed.and_then(|(_, time)| at(time)),
            stats_reset: None,
            archive_mode: mode.to_owned(),
            archived_per_second: None,
            now: OffsetDateTime::UNIX_EPOCH,
        };
        let (one, two) = ("000000020000000000000001", "000000020000000000000002");
        for (mode, archived, failed, expected) in [
            ("off", None, None, false),
            ("on", None, None, true),
            ("always", None, None, true),
            ("on", None, Some((one, 5)), false),
            ("on", Some((one, 6)), Some((one, 5)), true),
            ("on", Some((one, 5)), Some((one, 5)), true),
            ("on", Some((one, 5)), Some((two, 6)), false),
            ("on", Some((one, 5)), Some(("00000002.history", 6)), true),
            ("on", Some((one, 5)), Some(("00000003.history", 6)), false),
            ("on", Some((one, 5)), Some(("not a WAL name", 6)), false),
        ] {
            assert_eq!(
                stats(mode, archived, failed).is_archiving(),
                expected,
                "{mode} {archived:?} {failed:?}"
            );
        }
    }
}
