//! How `show-backup` looks on the console.

use barman_core::format::text::{human_duration, percentage, pretty_size, pretty_throughput, rate_per_hour};
use barman_core::format::timestamp;
use barman_core::model::{BackupId, BackupInfo, BackupMethod, PyValue};
use barman_core::server::{ShownBackup, copy_figures, saved};
use time::Duration;

use super::{LATEST, NOT_ENFORCED, OLDEST};

/// Lines in the making.
#[derive(Default)]
struct Page(Vec<String>);

impl Page {
    fn head(&mut self, label: &str, value: impl std::fmt::Display) {
        self.0.push(format!("  {label:<23}: {value}"));
    }

    fn block(&mut self, title: &str) {
        self.0.push(String::new());
        self.0.push(format!("  {title}:"));
    }

    fn line(&mut self, label: &str, value: impl std::fmt::Display) {
        self.0.push(format!("    {label:<21}: {value}"));
    }

    fn maybe(&mut self, label: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.line(label, value);
        }
    }
}

pub(super) fn lines(server: &str, shown: &ShownBackup<'_>) -> Vec<String> {
    let backup = shown.listed.backup;
    let mut page = Page(vec![format!("Backup {}:", backup.id)]);
    if let Some(name) = &backup.backup_name {
        page.head("Backup Name", name);
    }
    page.head("Server Name", server);
    if let Some(id) = backup.systemid {
        page.head("System Id", id);
    }
    page.head("Status", backup.status);
    if !backup.status.is_available() {
        server_information(&mut page, backup);
        page.0.push(String::new());
        if let Some(error) = &backup.error {
            page.head("Error", error);
        }
        return page.0;
    }
    page.head("PostgreSQL Version", backup.version.map_or("None".to_owned(), |v| v.num().to_string()));
    page.head("PGDATA directory", backup.pgdata.as_ref().map_or("None", |path| path.as_str()));
    if let Some(size) = backup.cluster_size {
        page.head("Estimated Cluster Size", pretty_size(size));
    }
    server_information(&mut page, backup);
    if let Some(snapshots) = &backup.snapshots_info {
        snapshot_information(&mut page, snapshots);
    }
    if !backup.tablespaces.is_empty() {
        page.block("Tablespaces");
        for space in &backup.tablespaces {
            page.line(&space.name, format_args!("{} (oid: {})", space.location, space.oid));
        }
    }
    base_backup(&mut page, shown);
    wal(&mut page, shown);
    catalog(&mut page, shown);
    if !shown.timelines.is_empty() {
        page.0.push(String::new());
        page.0.push(
            "WARNING: WAL information is inaccurate due to multiple timelines interacting with this backup"
                .to_owned(),
        );
    }
    page.0
}

fn server_information(page: &mut Page, backup: &BackupInfo) {
    if backup.data_checksums.is_some() || backup.summarize_wal.is_some() {
        page.block("Server information");
        page.maybe("Checksums", backup.data_checksums.as_ref());
        page.maybe("WAL summarizer", backup.summarize_wal.as_ref());
    }
}

fn base_backup(page: &mut Page, shown: &ShownBackup<'_>) {
    let backup = shown.listed.backup;
    let required = &shown.listed.wal.required;
    let is_postgres = backup.mode == Some(BackupMethod::Postgres);
    page.block("Base backup information");
    page.maybe("Backup Method", backup.mode.as_ref());
    page.maybe("Encryption", backup.encryption.as_ref());
    page.maybe("Backup Type", is_postgres.then(|| backup.backup_type().as_str()));
    if let Some(size) = backup.deduplicated_size {
        let with_wal = match required.files {
            0 => String::new(),
            _ => format!(" ({} with WALs)", pretty_size(size.saturating_add(required.bytes))),
        };
        page.line("Backup Size", format_args!("{}{with_wal}", pretty_size(size)));
    }
    page.maybe("Backup Compression", backup.compression.as_ref().filter(|word| *word != "none"));
    page.maybe("WAL Size", (required.files > 0).then(|| pretty_size(required.bytes)));
    let saved = saved(backup).map(|(bytes, share)| format!("{} ({})", pretty_size(bytes), percentage(share)));
    page.maybe("Resources saved", saved);
    page.maybe("Timeline", backup.timeline);
    page.maybe("Begin WAL", backup.begin_wal);
    page.maybe("End WAL", backup.end_wal);
    page.maybe("Number of WALs", Some(required.files).filter(|n| *n > 0));
    page.maybe("WAL compression ratio", required.saved(backup.xlog_segment_size).map(percentage));
    page.maybe("Begin time", backup.begin_time.map(timestamp::python_str));
    page.maybe("End time", backup.end_time.map(timestamp::python_str));
    if let Some(figures) = copy_figures(backup) {
        let words = |seconds: f64| human_duration(Duration::seconds_f64(seconds));
        let startup = figures.analysis.filter(|seconds| *seconds >= 1.0);
        let startup = startup.map(|seconds| format!(" + {} startup", words(seconds))).unwrap_or_default();
        page.line("Copy time", format_args!("{}{startup}", words(figures.copy)));
        let jobs = if figures.workers > 1 { format!(" ({} jobs)", figures.workers) } else { String::new() };
        page.line("Estimated throughput", format_args!("{}{jobs}", pretty_throughput(figures.throughput)));
    }
    page.maybe("Begin Offset", backup.begin_offset);
    page.maybe("End Offset", backup.end_offset);
    page.maybe("Begin LSN", backup.begin_xlog);
    page.maybe("End LSN", backup.end_xlog);
}

fn wal(page: &mut Page, shown: &ShownBackup<'_>) {
    let wal = &shown.listed.wal;
    page.block("WAL information");
    page.line("Number of files", wal.until_next.files);
    page.line("Disk usage", pretty_size(wal.until_next.bytes));
    page.maybe("WAL rate", wal.rate().map(rate_per_hour));
    let saved = wal.until_next.saved(shown.listed.backup.xlog_segment_size);
    page.maybe("Compression ratio", saved.map(percentage));
    page.line("Last available", wal.last().map_or("None".to_owned(), |name| name.to_string()));
    if !shown.timelines.is_empty() {
        let timelines: Vec<String> = shown.timelines.iter().map(ToString::to_string).collect();
        page.line("Reachable timelines", timelines.join(", "));
    }
}

fn catalog(page: &mut Page, shown: &ShownBackup<'_>) {
    let backup = shown.listed.backup;
    let id = |id: Option<BackupId>, none: &str| id.map_or(none.to_owned(), |id| id.to_string());
    page.block("Catalog information");
    page.line("Retention Policy", shown.listed.retention.map_or(NOT_ENFORCED, |status| status.as_str()));
    page.line("Previous Backup", id(shown.previous, OLDEST));
    page.line("Next Backup", id(shown.next, LATEST));
    page.maybe("Root Backup", shown.root);
    page.maybe("Parent Backup", shown.root.and(backup.parent_backup_id));
    page.maybe("Backup chain size", shown.chain_size);
    if backup.mode == Some(BackupMethod::Postgres) && !backup.children_backup_ids.is_empty() {
        let ids: Vec<&str> = backup.children_backup_ids.iter().map(BackupId::as_str).collect();
        page.line("Children Backup(s)", ids.join(","));
    }
}

/// Provider, then each disk: names as the file has them.
fn snapshot_information(page: &mut Page, snapshots: &PyValue) {
    page.block("Snapshot information");
    flatten(page, "", snapshots);
}

fn flatten(page: &mut Page, label: &str, value: &PyValue) {
    match value {
        PyValue::Dict(items) => {
            for (key, value) in items {
                let key = match key {
                    PyValue::Str(key) => key.as_str(),
                    _ => label,
                };
                flatten(page, key, value);
            }
        }
        PyValue::List(items) | PyValue::Tuple(items) => {
            items.iter().for_each(|item| flatten(page, label, item));
        }
        PyValue::Str(text) => page.line(label, text),
        other => page.line(label, barman_core::format::pyliteral::repr(other)),
    }
}
