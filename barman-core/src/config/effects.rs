//! What options mean together: the combinations by which a server is disabled, and the values that are forced. The
//! order of the messages is Barman's, since most commands print only the first.

use super::conninfo::{is_connection_string, redacted};
use super::late::{LATE, Retention, complaints};
use super::load::{Notice, Severity};
use super::server::ServerConfig;
use super::words::{BackupMethod, ReuseBackup};

/// Judges a server after its model, if any, is applied.
pub(crate) fn settle(server: &mut ServerConfig) {
    if server.is_active() && !server.is_passive() {
        connections(server);
        method(server);
        archivers(server);
    }
    late(server);
    if !server.messages.is_empty() {
        server.options.disabled = true;
    }
}

fn connections(server: &mut ServerConfig) {
    let name = &server.name;
    let options = &server.options;
    let bad = |text: &Option<String>| {
        let text = text.as_deref().filter(|text| !is_connection_string(text))?;
        let text = redacted(text);
        Some(format!("Cannot connect to postgres: \"{text}\" is not a valid connection string"))
    };
    let missing = |option: &str| format!("Missing '{option}' parameter for server '{name}'");
    let trouble = match options.conninfo {
        None => Some(missing("conninfo")),
        Some(_) => bad(&options.conninfo).or_else(|| bad(&options.primary_conninfo)),
    };
    let streaming = options.backup_method == BackupMethod::Postgres || options.streaming_archiver;
    let streaming_trouble = match options.streaming_conninfo {
        _ if !streaming => None,
        None => Some(missing("streaming_conninfo")),
        Some(_) => bad(&options.streaming_conninfo),
    };
    server.messages.extend(trouble.map(|text| format!("PostgreSQL connection: {text}")));
    server.messages.extend(streaming_trouble.map(|text| format!("Streaming connection: {text}")));
}

fn method(server: &mut ServerConfig) {
    let name = &server.name;
    let options = &server.options;
    let messages = &mut server.messages;
    let method = options.backup_method;
    let reuses = matches!(options.reuse_backup, Some(ReuseBackup::Copy | ReuseBackup::Link));
    // These two are still texts when Barman looks here: zero and nonsense count as set.
    let written = |key| matches!(server.late.get(key), Some(Some(_)));
    let limits_bandwidth = written("bandwidth_limit");
    let limits_tablespaces = written("tablespace_bandwidth_limit");
    let compresses = options.backup_compression.is_some();
    let needs_ssh = matches!(method, BackupMethod::Rsync | BackupMethod::Snapshot);
    if needs_ssh && options.ssh_command.is_none() {
        messages.push(format!("Missing or invalid ssh_command in barman configuration for server {name}"));
        return;
    }
    if method == BackupMethod::LocalRsync && options.ssh_command.is_some() {
        messages.push(format!(
            "Local copy requires ssh_command in barman configuration to be empty for server {name}"
        ));
        return;
    }
    let refused: &[(&str, bool)] = match method {
        BackupMethod::Rsync | BackupMethod::LocalRsync => &[("backup_compression", compresses)],
        BackupMethod::Postgres => &[
            ("tablespace_bandwidth_limit", limits_tablespaces),
            ("reuse_backup", reuses),
            ("network_compression", options.network_compression),
        ],
        BackupMethod::Snapshot => &[
            ("backup_compression", compresses),
            ("bandwidth_limit", limits_bandwidth),
            ("network_compression", options.network_compression),
            ("tablespace_bandwidth_limit", limits_tablespaces),
            ("reuse_backup", reuses),
        ],
        BackupMethod::LocalToCloud => &[],
    };
    // The message of local-rsync names its parent method, as Barman's does.
    let word = if method == BackupMethod::LocalRsync { BackupMethod::Rsync } else { method };
    for (option, _) in refused.iter().filter(|(_, set)| *set) {
        messages.push(format!("{option} option is not supported by {word} backup_method"));
    }
    if method == BackupMethod::Snapshot {
        snapshot(server);
    }
    strategy(server);
}

fn snapshot(server: &mut ServerConfig) {
    let options = &server.options;
    let missing = [
        ("snapshot_disks", options.snapshot_disks.is_none()),
        ("snapshot_instance", options.snapshot_instance.is_none()),
        ("snapshot_provider", options.snapshot_provider.is_none()),
    ];
    for (option, _) in missing.iter().filter(|(_, missing)| *missing) {
        server.messages.push(format!("{option} option is required by snapshot backup_method"));
    }
    let provider = options.snapshot_provider.as_deref();
    if !matches!(provider, Some("gcp" | "azure" | "aws")) {
        let provider = provider.unwrap_or("None");
        server.messages.push(format!(
            "Error initialising snapshot provider {provider}: Unsupported snapshot provider: {provider}"
        ));
    }
}

/// Concurrent or exclusive.
fn strategy(server: &mut ServerConfig) {
    let options = &mut server.options.backup_options;
    match server.options.backup_method {
        BackupMethod::LocalToCloud => {}
        BackupMethod::Postgres => {
            if options.exclusive_backup {
                options.exclusive_backup = false;
                server.notices.push(Notice::warning(
                    "'exclusive_backup' is not a valid backup_option using postgres backup_method. Overriding with 'concurrent_backup'.",
                ));
            }
            options.concurrent_backup = true;
        }
        _ if !options.concurrent_backup && !options.exclusive_backup => {
            options.concurrent_backup = true;
            let name = &server.name;
            server.notices.push(Notice::warning(format!(
                "No backup strategy set for server '{name}' (using default 'concurrent_backup')."
            )));
        }
        _ => {}
    }
}

fn archivers(server: &mut ServerConfig) {
    let options = &mut server.options;
    if options.streaming_archiver && !options.archiver {
        // A missing streaming_conninfo has its own message already.
        if options.slot_name.is_none() {
            server.messages.push(
                "Streaming-only archiver requires 'streaming_conninfo' and 'slot_name' options to be properly configured"
                    .to_owned(),
            );
        }
    } else if !options.archiver {
        options.archiver = true;
        let name = &server.name;
        server.notices.push(Notice::warning(format!(
            "No archiver enabled for server '{name}'. Please turn on 'archiver', 'streaming_archiver' or both"
        )));
        server.notices.push(Notice::warning("Forcing 'archiver = on'"));
    }
}

fn late(server: &mut ServerConfig) {
    let with_policy = server.options.retention_policy.is_some();
    for key in LATE {
        let Some(text) = server.late.get(key) else { continue };
        for text in complaints(server.name.as_str(), key, text.as_deref(), with_policy) {
            let severity = if key == "retention_policy" { Severity::Error } else { Severity::Warning };
            server.notices.push(Notice { severity, text, log_only: true });
        }
    }
    server.options.retention_policy_mode = Some("auto".to_owned());
    match server.options.retention_policy {
        None => {}
        Some(Retention::Policy(_)) => server.options.wal_retention_policy = Some("MAIN".to_owned()),
        Some(Retention::Invalid(_)) => server.options.wal_retention_policy = Some("main".to_owned()),
    }
}
