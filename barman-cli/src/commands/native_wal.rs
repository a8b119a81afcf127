//! `barman native-wal SERVER` and `barman native-errors SERVER`: what the archive holds, and what it did not take.

use barman_core::format::timestamp::python_str;
use barman_core::policy::wal_ranges::SegmentRange;
use barman_core::server::{BackupReach, Server, TimelineView, WalView};
use barman_core::wal::RefusedWal;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::app::App;
use crate::error::Failure;

/// Arguments of `native-wal`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status 1 when WAL is missing that a backup needs to be rolled forward to the end of the archive."
)]
pub(crate) struct View {
    /// The server.
    server_name: String,
}

/// For each timeline what is here without a hole, and for each backup which points in time can be restored.
pub(crate) fn view(arguments: &View, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let name = config.name.as_str();
    let view = app.open(config)?.wal_view(&app.ctx())?;
    let out = &app.output;
    out.print(&format!("WAL of server {name} (segments of {}):", view.segment_size));
    for timeline in &view.timelines {
        draw_timeline(timeline, &view, app);
    }
    if view.timelines.is_empty() {
        out.print("\tno WAL is archived");
    }
    out.print("Backups:");
    for backup in &view.backups {
        out.print(&format!("\t{}", reach(backup)));
    }
    if view.backups.is_empty() {
        out.print("\tno backup can be restored");
    }
    out.put(name, document(&view));
    view.cut_off().filter_map(BackupReach::warning).for_each(|text| out.error(&text));
    Ok(())
}

fn time(time: Option<OffsetDateTime>) -> String {
    time.map_or_else(|| "an unknown time".to_owned(), python_str)
}

fn draw_timeline(timeline: &TimelineView, view: &WalView, app: &App) {
    let out = &app.output;
    let from = timeline.parent.map(|(parent, lsn)| format!(" (left timeline {parent} at {lsn})"));
    out.print(&format!("\tTimeline {}{}:", timeline.timeline, from.unwrap_or_default()));
    let size = view.segment_size;
    let names = |range: &SegmentRange| format!("{} - {}", range.first_name(size), range.last_name(size));
    let mut holes = timeline.holes.iter();
    for (index, (range, first, last)) in timeline.ranges.iter().enumerate() {
        if index > 0
            && let Some(hole) = holes.next()
        {
            out.print(&format!("\t\tMISSING {} ({})", names(hole), hole.count()));
        }
        out.print(&format!(
            "\t\t{} ({}), written from {} to {}",
            names(range),
            range.count(),
            time(*first),
            time(*last)
        ));
    }
}

fn reach(backup: &BackupReach) -> String {
    let begins = format!("{} on timeline {}", backup.id, backup.timeline);
    let Some(until) = backup.until_lsn else {
        let missing =
            backup.missing.map_or_else(|| "it is not complete yet".to_owned(), |m| format!("{m} is missing"));
        return format!("{begins} cannot be restored: {missing}");
    };
    let from = backup.from_lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
    format!(
        "{begins} can be restored to any point from {from} ({}) to {until} (about {}) on timeline {}{}",
        time(backup.from),
        time(backup.until),
        backup.until_timeline,
        backup.missing.map_or_else(String::new, |missing| format!("; then {missing} is missing")),
    )
}

fn document(view: &WalView) -> Value {
    let size = view.segment_size;
    let names = |range: &SegmentRange| {
        json!({
            "first": range.first_name(size).to_string(),
            "last": range.last_name(size).to_string(),
            "count": range.count(),
        })
    };
    let stamp = |time: Option<OffsetDateTime>| time.map(python_str);
    let timeline = |timeline: &TimelineView| {
        let ranges = timeline.ranges.iter().map(|(range, first, last)| {
            let mut value = names(range);
            value["written_from"] = json!(stamp(*first));
            value["written_to"] = json!(stamp(*last));
            value
        });
        json!({
            "timeline": timeline.timeline.get(),
            "parent": timeline.parent.map(|(parent, _)| parent.get()),
            "parent_left_at": timeline.parent.map(|(_, lsn)| lsn.to_string()),
            "ranges": ranges.collect::<Vec<_>>(),
            "holes": timeline.holes.iter().map(names).collect::<Vec<_>>(),
        })
    };
    let backup = |backup: &BackupReach| {
        json!({
            "backup_id": backup.id.as_str(),
            "status": backup.status.as_str(),
            "timeline": backup.timeline.get(),
            "from_time": stamp(backup.from),
            "from_lsn": backup.from_lsn.map(|lsn| lsn.to_string()),
            "until_time": stamp(backup.until),
            "until_lsn": backup.until_lsn.map(|lsn| lsn.to_string()),
            "until_timeline": backup.until_timeline.get(),
            "missing": backup.missing.map(|name| name.to_string()),
        })
    };
    json!({
        "segment_size": size.bytes(),
        "timelines": view.timelines.iter().map(timeline).collect::<Vec<_>>(),
        "backups": view.backups.iter().map(backup).collect::<Vec<_>>(),
    })
}

/// Arguments of `native-errors`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without options the files are listed. A file that is retried goes back to where files come in, and is \
                        looked at again at once; one that is still not sound comes back here. A file that is discarded is \
                        gone for good."
)]
pub(crate) struct Errors {
    /// The server.
    server_name: String,
    /// Look again at these files (their names in the list), or at 'all'.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "discard")]
    retry: Vec<String>,
    /// Remove these files, or 'all', for good.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    discard: Vec<String>,
}

/// What lies in the errors directory, and what is to become of it.
pub(crate) fn errors(arguments: &Errors, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let name = config.name.as_str();
    let server = app.open(config)?;
    let all = server.refused_wal()?;
    if !arguments.retry.is_empty() {
        for file in chosen(&all, &arguments.retry, app) {
            let to = server.retry_refused(file)?;
            app.output.info(&format!("{} goes to {to} once more", file.file));
        }
        let outcome = server.archive_wal(&app.ctx())?;
        super::archive_wal::draw(name, &outcome, app);
        return Ok(());
    }
    if !arguments.discard.is_empty() {
        for file in chosen(&all, &arguments.discard, app) {
            server.discard_refused(file)?;
            app.output.info(&format!("{} was removed", file.file));
        }
        return Ok(());
    }
    list(name, &server, &all, app);
    Ok(())
}

fn chosen<'f>(all: &'f [RefusedWal], named: &[String], app: &App) -> Vec<&'f RefusedWal> {
    if named.iter().any(|name| name == "all") {
        return all.iter().collect();
    }
    let mut found = Vec::new();
    for name in named {
        match all.iter().find(|file| file.file == *name) {
            Some(file) => found.push(file),
            None => app.output.error(&format!("There is no file {name} in the errors directory")),
        }
    }
    found
}

fn list(name: &str, server: &Server, all: &[RefusedWal], app: &App) {
    let out = &app.output;
    if all.is_empty() {
        out.print(&format!("No file of server {name} was refused"));
    } else {
        let errors = &server.config().options.errors_directory;
        out.print(&format!("Files that were not taken into the archive of server {name}, in {errors}:"));
    }
    for file in all {
        let at = file.at.map_or_else(String::new, |at| format!(", at {}", python_str(at)));
        let why = file.reason.clone().unwrap_or_else(|| match file.kind.as_str() {
            "duplicate" => "another file of that name was archived before".to_owned(),
            _ => "the reason was not noted".to_owned(),
        });
        out.print(&format!("\t{} ({} bytes{at}): {why}", file.file, file.size));
    }
    let member = |file: &RefusedWal| {
        json!({
            "file": file.file,
            "name": file.name,
            "at": file.at.map(python_str),
            "kind": file.kind,
            "size": file.size,
            "reason": file.reason,
        })
    };
    out.put(name, all.iter().map(member).collect());
}
