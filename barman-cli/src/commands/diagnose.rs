//! `barman diagnose`

use std::process::Command;

use barman_core::format::timestamp;
use barman_core::server::shown_options;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::error::Failure;

/// Arguments of `diagnose`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Tell for each option which file it comes from.
    #[arg(long)]
    show_config_source: bool,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let sources = arguments.show_config_source;
    let config = &app.config;
    let globals = config.globals.shown().into_iter();
    let globals: Vec<_> = globals.collect();
    let mut global = shown_options(
        globals.iter().map(|(name, value, source)| (name.as_str(), value.clone(), *source)),
        sources,
    );
    global.insert("errors_list".to_owned(), json!(config.conflicts));
    let models: Map<String, Value> = config
        .models
        .iter()
        .map(|(name, model)| {
            (name.clone(), json!({ "config": shown_options(model.shown().into_iter(), sources) }))
        })
        .collect();
    let mut servers = Map::new();
    for server in config.servers.values() {
        match app.open(server).and_then(|opened| Ok(opened.diagnose(sources, &app.ctx())?)) {
            Ok(members) => {
                servers.insert(server.name.to_string(), members.into());
            }
            // One that cannot be looked into is what this command is for: the others are shown.
            Err(Failure::Error(text) | Failure::Status(text, _) | Failure::Exception(text)) => {
                app.output.warning(&text)
            }
            Err(Failure::Said) => {}
        }
    }
    let answer = json!({
        "global": { "config": global, "system_info": system(app) },
        "models": models,
        "servers": servers,
    });
    let mut text = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut printer = serde_json::Serializer::with_formatter(&mut text, form);
    serde::Serialize::serialize(&answer, &mut printer).map_err(|e| Failure::Error(e.to_string()))?;
    app.output.info(&String::from_utf8_lossy(&text));
    Ok(())
}

/// What this host is. There is no Python and no rsync here, which Barman would tell of.
fn system(app: &App) -> Value {
    let kernel = rustix::system::uname();
    let parts = [kernel.sysname(), kernel.nodename(), kernel.release(), kernel.version(), kernel.machine()];
    let kernel: Vec<_> = parts.iter().map(|part| part.to_string_lossy()).collect();
    let release = app.host.disk.read_text("/etc/os-release".into()).unwrap_or_default();
    let release = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let ssh = Command::new("ssh").arg("-V").output().ok();
    let ssh = ssh.map(|said| String::from_utf8_lossy(&said.stderr).trim().to_owned());
    json!({
        "barman_ver": crate::args::VERSION,
        "kernel_ver": kernel.join(" "),
        "python_executable": null,
        "python_ver": null,
        "release": release.map(|name| name.trim_matches('"')),
        "rsync_ver": null,
        "ssh_ver": ssh,
        "timestamp": timestamp::python_iso(app.host.clock.now()),
    })
}
