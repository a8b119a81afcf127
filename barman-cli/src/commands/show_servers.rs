//! `barman show-servers SERVER …`

use std::collections::BTreeMap;

use barman_core::config::{ServerConfig, Value};
use barman_core::policy::freshness;
use serde_json::json;

use crate::app::App;
use crate::error::Failure;

/// Arguments of `show-servers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The servers, or 'all'.
    #[arg(required = true, value_name = "SERVER")]
    server_names: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    app.each(&arguments.server_names, |config| one(config, app))
}

fn one(config: &ServerConfig, app: &App) -> Result<(), Failure> {
    let server = app.open(config)?;
    let mut shown: BTreeMap<String, Value> =
        config.options().map(|view| (view.name.to_owned(), view.value)).collect();
    shown.insert("name".to_owned(), Value::Text(config.name.to_string()));
    shown.insert("passive_node".to_owned(), Value::Bool(config.is_passive()));
    let model = config.active_model.clone().map_or(Value::None, Value::Text);
    shown.insert("active_model".to_owned(), model);
    shown.extend(server.live_facts());
    let backups = server.backups(&app.ctx())?;
    let limit = config.options.last_backup_maximum_age.map(|interval| interval.0);
    let latest = freshness::latest_available(&backups);
    let age = freshness::backup_age_shown(limit, latest, app.host.clock.now());
    shown.insert("last_backup_maximum_age".to_owned(), Value::Text(age));

    let suffix = config.state_suffix();
    app.output.print(&format!("Server {}{suffix}:", config.name));
    shown.iter().for_each(|(key, value)| app.output.print(&format!("\t{key}: {value}")));
    let mut members: serde_json::Map<_, _> =
        shown.iter().map(|(key, value)| (key.clone(), value.show_json())).collect();
    if config.options.description.is_none() && !suffix.is_empty() {
        members.insert("description".to_owned(), json!(suffix.trim()));
    }
    app.output.put(config.name.as_str(), members.into());
    Ok(())
}
