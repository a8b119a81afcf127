//! `barman check --nagios`: one line that a monitoring plug-in understands, then what failed.

use std::fmt::Write as _;

use barman_core::config::ServerConfig;
use barman_core::model::Check;
use barman_core::server::Server;

use super::{Arguments, limited};
use crate::app::App;
use crate::error::Failure;

const READY: &str = "Ready to serve the Espresso backup for";

/// What the plug-in is told of a server.
struct Told {
    name: String,
    active: bool,
    failed: Vec<Check>,
    /// `NAME=<size>B NAME_wals=<size>B`.
    performance: String,
}

pub(super) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let Ok(servers) = app.known_servers(&arguments.server_names) else {
        return broken(app);
    };
    let mut told = Vec::new();
    for server in servers {
        match tell(arguments, server, app) {
            Ok(server) => told.push(server),
            Err(_) => return broken(app),
        }
    }
    let (text, status) = verdict(&told);
    app.output.print_always(&text);
    app.output.exit_with(status);
    Ok(())
}

fn broken(app: &App) -> Result<(), Failure> {
    app.output.print_always("BARMAN CRITICAL - Global configuration errors");
    app.output.exit_with(2);
    Ok(())
}

fn tell(arguments: &Arguments, config: &ServerConfig, app: &App) -> Result<Told, Failure> {
    // Without the notices on the configuration: a plug-in reads what is printed.
    let server = Server::open(limited(arguments, config)?, &app.config.globals, app.host.clone())?;
    let report = server.check(&app.ctx())?;
    let overview = server.overview(&app.ctx())?;
    let latest = overview.available().next_back();
    let size = latest.and_then(|backup| backup.size).unwrap_or(0);
    let wal = latest.map_or(0, |backup| overview.wal().of_backup(backup, None).until_next.bytes);
    let name = config.name.to_string();
    let performance = format!("{name}={size}B {name}_wals={wal}B");
    Ok(Told { active: config.is_active(), failed: report.failures().cloned().collect(), performance, name })
}

/// The text, and the exit status.
fn verdict(told: &[Told]) -> (String, u8) {
    let performance = |keep: &dyn Fn(&&Told) -> bool| {
        told.iter().filter(keep).map(|t| t.performance.as_str()).collect::<Vec<_>>().join(" ")
    };
    // Inactive servers are ignored, unless an active one has issues: then Barman lists them all.
    let bad: Vec<&Told> = told.iter().filter(|t| !t.failed.is_empty()).collect();
    if !bad.iter().any(|t| t.active) {
        let ignored: Vec<&str> = bad.iter().map(|t| t.name.as_str()).collect();
        let performance = performance(&|t| t.failed.is_empty());
        let good: Vec<&str> = told.iter().filter(|t| t.failed.is_empty()).map(|t| t.name.as_str()).collect();
        let mut line = match good.as_slice() {
            [] => "BARMAN OK - No server configured".to_owned(),
            [one] => format!("BARMAN OK - {READY} {one}"),
            many => format!("BARMAN OK - {READY} {} servers * {}", many.len(), many.join(" * ")),
        };
        if !ignored.is_empty() {
            let _ = write!(line, " * IGNORING: {}", ignored.join(" * IGNORING: "));
        }
        if !performance.is_empty() {
            let _ = write!(line, "|{performance}");
        }
        return (line, 0);
    }
    let mut line = match (bad.as_slice(), told.len()) {
        ([one], 1) => format!("BARMAN CRITICAL - server {} has issues", one.name),
        (bad, all) => format!("BARMAN CRITICAL - {} server out of {all} have issues", bad.len()),
    };
    for server in &bad {
        let names: Vec<&str> = server.failed.iter().map(|check| check.name.as_str()).collect();
        let _ = write!(line, " * {} FAILED: {}", server.name, names.join(", "));
    }
    let _ = write!(line, "|{}", performance(&|_| true));
    for server in &bad {
        for check in &server.failed {
            let hint = if check.hint.is_empty() { String::new() } else { format!(" ({})", check.hint) };
            let _ = write!(line, "\n{}.{}: FAILED{hint}", server.name, check.name);
        }
    }
    (line, 2)
}
