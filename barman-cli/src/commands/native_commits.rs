//! `barman native-commits SERVER`: which transactions ended when.

use barman_core::format::timestamp::{self, python_str};
use barman_core::format::wal_record::{Landmark, LandmarkKind};
use barman_core::model::Timeline;
use barman_core::server::CommitQuery;
use serde_json::json;

use crate::app::App;
use crate::error::Failure;

/// Arguments of `native-commits`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  barman native-commits main\n  \
    barman native-commits --around '2026-11-22 21:46:00+00:00' --count 5 main\n  \
    barman native-commits --drops main\n\n\
    To get back to just before a transaction: barman restore --target-xid XID --exclusive …")]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// Around this time; without it the latest are shown.
    #[arg(long, value_name = "TIME")]
    around: Option<String>,
    /// How many before that time, and how many after it.
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: usize,
    /// On the way to this timeline; without it the newest.
    #[arg(long, value_name = "TIMELINE")]
    timeline: Option<u32>,
    /// Only transactions that drop, truncate or rewrite tables, and restore points.
    #[arg(long)]
    drops: bool,
    /// Read all segments and make the index of transactions anew; shows nothing.
    #[arg(long, conflicts_with_all = ["around", "timeline", "drops"])]
    rebuild: bool,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let (name, out) = (config.name.as_str(), &app.output);
    let server = app.open(config)?;
    if arguments.rebuild {
        let segments = server.rebuild_commits(&app.ctx())?;
        out.info(&format!("The transactions of {segments} segments of server {name} are indexed"));
        return Ok(());
    }
    let around = match &arguments.around {
        Some(text) => {
            let parsed = timestamp::parse(text, &|local| app.host.clock.resolve_local(local));
            Some(parsed.map_err(|e| Failure::Error(format!("--around cannot be read: {e}")))?.instant)
        }
        None => None,
    };
    let timeline = arguments
        .timeline
        .map(|id| Timeline::new(id).ok_or_else(|| Failure::Error("There is no timeline 0".to_owned())))
        .transpose()?;
    let query = CommitQuery { around, count: arguments.count, timeline, marks_only: arguments.drops };
    let found = server.commits_around(&query, &app.ctx())?;
    if found.is_empty() {
        out.print(&format!("The archive of server {name} has no such transactions"));
    }
    let mut told = around.is_none();
    for landmark in &found {
        let after = landmark.time.to_utc().is_some_and(|time| around.is_some_and(|around| time > around));
        if after && !told {
            told = true;
            out.print(&format!("-- {}", around.map_or_else(String::new, python_str)));
        }
        out.print(&line(landmark));
    }
    out.put(name, found.iter().map(member).collect());
    Ok(())
}

fn time(landmark: &Landmark) -> String {
    landmark.time.to_utc().map_or_else(|| "?".to_owned(), python_str)
}

fn line(landmark: &Landmark) -> String {
    let what = match &landmark.kind {
        LandmarkKind::Commit => format!("commit of transaction {}", landmark.xid),
        LandmarkKind::Abort => format!("rollback of transaction {}", landmark.xid),
        LandmarkKind::RestorePoint(name) => format!("restore point '{name}'"),
    };
    let files: Vec<String> = landmark.dropped.iter().take(8).map(ToString::to_string).collect();
    let more = match landmark.dropped.len() {
        0..=8 => String::new(),
        all => format!(" and {} more", all - 8),
    };
    let dropped =
        if files.is_empty() { String::new() } else { format!(", drops {}{more}", files.join(", ")) };
    format!("{} at {}: {what}{dropped}", time(landmark), landmark.lsn)
}

fn member(landmark: &Landmark) -> serde_json::Value {
    let (kind, name) = match &landmark.kind {
        LandmarkKind::Commit => ("commit", None),
        LandmarkKind::Abort => ("rollback", None),
        LandmarkKind::RestorePoint(name) => ("restore_point", Some(name)),
    };
    json!({
        "lsn": landmark.lsn.to_string(),
        "time": time(landmark),
        "kind": kind,
        "xid": (landmark.xid != 0).then_some(landmark.xid),
        "name": name,
        "dropped_files": landmark.dropped.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
