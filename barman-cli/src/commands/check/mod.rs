//! `barman check SERVER …`

mod nagios;

use barman_core::config::ServerConfig;
use barman_core::format::text::json_key;
use barman_core::model::Outcome;
use barman_core::server::{BackupReach, CheckReport, Server};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::error::Failure;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  barman check main\n  barman check --nagios all")]
pub(crate) struct Arguments {
    /// The servers, or 'all'.
    #[arg(required = true, value_name = "SERVER")]
    server_names: Vec<String>,
    /// One line for a Nagios or Icinga plug-in, exit status 2 where something is wrong.
    #[arg(long)]
    nagios: bool,
    /// Most seconds for the checks of a server.
    #[arg(long, value_name = "SECONDS")]
    check_timeout: Option<u32>,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    if arguments.nagios {
        return nagios::run(arguments, app);
    }
    app.each(&arguments.server_names, |config| {
        // The report of a server that cannot be checked to the end still has its heading.
        app.output.print(&format!("Server {}{}:", config.name, config.state_suffix()));
        let server = app.open(&limited(arguments, config)?)?;
        let report = server.check(&app.ctx())?;
        draw(config, &report, app);
        advise(&server, &report, app);
        Ok(())
    })
}

/// What Barman's lines leave out, beside them: WAL that is missing, and what to do about files that were refused.
fn advise(server: &Server, report: &CheckReport, app: &App) {
    let (name, out) = (server.name(), &app.output);
    if report.failures().any(|check| check.name == "archiver errors") {
        out.warning(&format!(
            "Files were refused and lie in {}: 'barman native-errors {name}' says why, and has them looked at again or removed",
            server.config().options.errors_directory
        ));
    }
    match server.wal_view(&app.ctx()) {
        Ok(view) => view.cut_off().filter_map(BackupReach::warning).for_each(|text| out.warning(&text)),
        // The check of the directories has said so.
        Err(error) => out.debug(&crate::error::explain(&error)),
    }
}

/// The configuration with the limit of the command line.
fn limited(arguments: &Arguments, config: &ServerConfig) -> Result<ServerConfig, Failure> {
    let mut config = config.clone();
    if let Some(seconds) = arguments.check_timeout {
        config
            .apply_override("check_timeout", &seconds.to_string())
            .map_err(|e| Failure::Error(e.to_string()))?;
    }
    Ok(config)
}

fn draw(config: &ServerConfig, report: &CheckReport, app: &App) {
    let out = &app.output;
    let mut members = Map::new();
    for check in &report.checks {
        let passed = check.outcome == Outcome::Ok;
        if !passed && config.is_active() {
            out.fail();
        }
        let hint = if check.hint.is_empty() { String::new() } else { format!(" ({})", check.hint) };
        out.print(&format!("\t{}: {}{hint}", check.name, out.verdict(passed)));
        if check.name == "configuration" {
            report.configuration.iter().for_each(|text| out.result(&format!("\t\t{text}")));
        }
        let status = if passed { "OK" } else { "FAILED" };
        members.insert(json_key(&check.name), json!({ "hint": check.hint, "status": status }));
    }
    out.put(config.name.as_str(), Value::Object(members));
}
