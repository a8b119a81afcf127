//! `barman verify-backup SERVER BACKUP`

use barman_core::server::Verification;
use serde_json::json;

use crate::app::App;
use crate::error::Failure;

/// Arguments of `verify-backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  barman verify-backup main latest")]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The backup: an id, a name, latest, oldest …
    backup_id: String,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let server = app.open(config)?;
    let backup = server.resolve(&arguments.backup_id, &app.ctx())?;
    let out = &app.output;
    out.info(&format!("Verifying backup '{}' on server ['{}']", arguments.backup_id, config.name));
    out.info("Calling pg_verifybackup");
    let found = server.verify_backup(&backup.id, &app.ctx())?;
    draw(&found, app);
    let problems = || found.files.problems.iter().map(ToString::to_string);
    let wal = || found.wal_problems.iter().map(ToString::to_string);
    out.put(
        "native_verification",
        json!({
            "backup_id": backup.id.as_str(),
            "sound": found.is_sound(),
            "files_verified": found.files.verified,
            "bytes_verified": found.files.bytes,
            "files_without_checksum": found.files.without_checksum,
            "files_unknown": found.files.unknown,
            "wal_verified": found.wal,
            "wal_awaited": found.awaited.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "problems": problems().chain(wal()).collect::<Vec<_>>(),
        }),
    );
    Ok(())
}

fn draw(found: &Verification, app: &App) {
    let out = &app.output;
    let files = &found.files;
    if !found.awaited.is_empty() {
        out.warning(&format!(
            "The backup waits for WAL that has not come yet, from {} on: it is verified when it has come",
            found.awaited.first().map(ToString::to_string).unwrap_or_default()
        ));
    }
    if files.without_checksum > 0 {
        out.warning(&format!(
            "{} files could not be verified: the backup was taken without checksums (only their lengths are known)",
            files.without_checksum
        ));
    }
    if files.unknown > 0 && !found.knows_nothing() {
        out.warning(&format!(
            "{} files could not be verified: no manifest that can be read speaks of them (Barman's own \
             have no files of tablespaces)",
            files.unknown
        ));
    }
    if found.is_sound() {
        out.info("backup successfully verified");
        return;
    }
    out.error(&format!("verify backup failure on directory '{}'", found.directory));
    if found.knows_nothing() {
        out.error(&format!(
            "nothing is known of its {} files: it has no backup_manifest and was not taken by this program. 'barman \
             generate-manifest' records what is there now",
            files.unknown
        ));
    }
    files.problems.iter().for_each(|problem| out.error(&problem.to_string()));
    found.wal_problems.iter().for_each(|problem| out.error(&problem.to_string()));
}
