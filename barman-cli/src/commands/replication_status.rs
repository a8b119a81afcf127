//! `barman replication-status SERVER …`

use barman_core::config::ServerConfig;
use barman_core::format::text::pretty_size_signed;
use barman_core::model::Lsn;
use barman_core::pg::ReplicationClient;
use barman_core::server::{ReplicationSource, ReplicationStatus, ReplicationTarget};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::commands::active::skipped;
use crate::error::Failure;

/// Arguments of `replication-status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The servers, or 'all'.
    #[arg(required = true, value_name = "SERVER")]
    server_names: Vec<String>,
    /// One line a client.
    #[arg(long)]
    minimal: bool,
    /// Which clients to show.
    #[arg(long, value_enum, default_value_t = Target::All)]
    target: Target,
    /// Which server to ask: that of conninfo, or that of wal_conninfo.
    #[arg(long, value_enum, default_value_t = Source::BackupHost)]
    source: Source,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Target {
    All,
    HotStandby,
    WalStreamer,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Source {
    BackupHost,
    WalHost,
}

impl Target {
    /// What is shown, at the beginning of a sentence and in the middle.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::All => ("Streaming clients", "streaming clients"),
            Self::HotStandby => ("Hot standby servers", "hot standby servers"),
            Self::WalStreamer => ("Wal streamers", "WAL streamers"),
        }
    }
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    app.each(&arguments.server_names, |config| {
        if skipped(config, app) {
            return Ok(());
        }
        one(arguments, config, app)
    })
}

fn one(arguments: &Arguments, config: &ServerConfig, app: &App) -> Result<(), Failure> {
    let name = config.name.as_str();
    let target = match arguments.target {
        Target::All => ReplicationTarget::All,
        Target::HotStandby => ReplicationTarget::HotStandby,
        Target::WalStreamer => ReplicationTarget::WalStreamer,
    };
    let source = match arguments.source {
        Source::BackupHost => ReplicationSource::BackupHost,
        Source::WalHost => ReplicationSource::WalHost,
    };
    let server = app.open(config)?;
    let status = server.replication_status(target, source).map_err(|error| {
        Failure::Error(format!(
            "Unable to connect to server {name}\nDETAILS: {}",
            crate::error::explain(&error)
        ))
    })?;
    let (title, words) = arguments.target.words();
    let lsn = status.lsn.map_or_else(|| "None".to_owned(), |lsn| lsn.to_string());
    // Barman says so of standbys too.
    let role = "master";
    let out = &app.output;
    if arguments.minimal {
        out.print(&format!("{title} for {role} '{name}' (LSN @ {lsn}):"));
    } else {
        out.print(&format!("Status of {words} for server '{name}':"));
        out.print(&format!("  Current LSN on {role}: {lsn}"));
    }
    let mut member = Map::new();
    member.insert("server_lsn".to_owned(), json!(lsn));
    if status.clients.is_empty() {
        out.print(&format!("  No {words} attached"));
        member.insert("standby_info".to_owned(), json!(format!("No {words} attached")));
    } else if !arguments.minimal {
        out.print(&format!("  Number of {words}: {}", status.clients.len()));
    }
    let mut list = Vec::new();
    for (index, client) in status.clients.iter().enumerate() {
        if arguments.minimal {
            let (line, value) = minimal(client);
            out.print(&format!("  {}. {line}", index + 1));
            list.push(value);
        } else {
            list.push(full(index + 1, client, &status, app));
        }
    }
    member.insert(words.replace(' ', "_").to_lowercase(), Value::Array(list));
    out.put(name, Value::Object(member));
    Ok(())
}

/// The kind of a client's synchronisation with its first letter as a capital.
fn sync_state(client: &ReplicationClient) -> String {
    let state = client.sync_state.as_deref().unwrap_or_default();
    let (first, rest) = state.split_at(state.len().min(1));
    format!("{}{rest}", first.to_uppercase())
}

fn text(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(|| "None".to_owned(), |lsn| lsn.to_string())
}

fn minimal(client: &ReplicationClient) -> (String, Value) {
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "None".to_owned());
    let address = client.address.clone().unwrap_or_else(|| "socket".to_owned());
    let (user, application) = (word(&client.user), word(&client.application_name));
    let sent = text(client.sent);
    let mut value = json!({
        "application_name": application,
        "client_addr": address,
        "sent_lsn": sent,
        "sync_priority": client.sync_priority,
        "user_name": user,
    });
    let (letter, rest) = match client.replayed {
        None => {
            let written = text(client.written);
            put(&mut value, "write_lsn", json!(written));
            ("W".to_owned(), format!("W:{written}"))
        }
        Some(replayed) => {
            let flushed = text(client.flushed);
            let letter = sync_state(client).chars().take(1).collect::<String>();
            put(&mut value, "flush_lsn", json!(flushed));
            put(&mut value, "replay_lsn", json!(replayed.to_string()));
            put(&mut value, "sync_state", json!(letter));
            (letter, format!("F:{flushed} R:{replayed}"))
        }
    };
    let line =
        format!("{letter}) {user}@{address} S:{sent} {rest} P:{} AN:{application}", client.sync_priority);
    (line, value)
}

fn put(value: &mut Value, key: &str, member: Value) {
    if let Value::Object(map) = value {
        map.insert(key.to_owned(), member);
    }
}

/// How safe the latest WAL is with a client.
fn stage(client: &ReplicationClient, lsn: Option<Lsn>) -> String {
    let reached = |position: Option<Lsn>| match (lsn, position) {
        (Some(lsn), Some(position)) => position >= lsn,
        _ => false,
    };
    // A receiver replays nothing, so it has fewer of them.
    let all = if client.replayed.is_some() { 5 } else { 3 };
    if client.replayed.is_some() && reached(client.replayed) {
        "5/5 Hot standby (max)".to_owned()
    } else if client.replayed.is_some() && reached(client.flushed) {
        "4/5 2-safe".to_owned()
    } else if reached(client.written) {
        format!("3/{all} Remote write")
    } else if reached(client.sent) {
        format!("2/{all} WAL Sent (min)")
    } else {
        format!("1/{all} 1-safe")
    }
}

fn full(number: usize, client: &ReplicationClient, status: &ReplicationStatus, app: &App) -> Value {
    let out = &app.output;
    let line = |title: &str, text: &str| out.print(&format!("     {title:<16}: {text}"));
    let kind = if client.replayed.is_some() { "standby" } else { "WAL streamer" };
    let rank = if client.sync_priority > 0 { format!("#{} ", client.sync_priority) } else { String::new() };
    let name = format!("{} {kind}", sync_state(client));
    let mut value = json!({ "name": format!("{rank}{name}") });
    out.print("");
    out.print(&format!("  {number}. {rank}{name}"));
    if let Some(application) = &client.application_name {
        line("Application name", application);
        put(&mut value, "application_name", json!(application));
    }
    let stage = stage(client, status.lsn);
    line("Sync stage", &stage);
    put(&mut value, "sync_stage", json!(stage));
    match &client.address {
        Some(address) => {
            let port = client.port.unwrap_or(-1);
            let host = client.host.as_deref();
            line("Communication", "TCP/IP");
            line("IP Address", &format!("{address} / Port: {port} / Host: {}", host.unwrap_or("-")));
            put(&mut value, "communication", json!("TCP/IP"));
            put(&mut value, "ip_address", json!(address));
            put(&mut value, "port", json!(port));
            put(&mut value, "host", json!(host));
        }
        None => {
            line("Communication", "Unix domain socket");
            put(&mut value, "communication", json!("Unix domain socket"));
        }
    }
    let state = (client.state.as_deref().unwrap_or("None"), client.sync_state.as_deref().unwrap_or("None"));
    line("User name", client.user.as_deref().unwrap_or("None"));
    put(&mut value, "user_name", json!(client.user));
    line("Current state", &format!("{} ({})", state.0, state.1));
    put(&mut value, "current_state", json!(state.0));
    put(&mut value, "current_sync_state", json!(state.1));
    if let Some(slot) = &client.slot {
        line("Replication slot", slot);
        put(&mut value, "replication_slot", json!(slot));
    }
    line("WAL sender PID", &client.pid.to_string());
    put(&mut value, "wal_sender_pid", json!(client.pid));
    let started = client.backend_start.as_deref().map(started);
    line("Started at", started.as_deref().unwrap_or("None"));
    put(&mut value, "started_at", json!(started));
    if let Some(xmin) = &client.backend_xmin {
        line("Standby's xmin", xmin);
        put(&mut value, "standbys_xmin", json!(xmin));
    }
    for (key, title, position) in [
        ("sent_lsn", "Sent LSN", client.sent),
        ("write_lsn", "Write LSN", client.written),
        ("flush_lsn", "Flush LSN", client.flushed),
        ("replay_lsn", "Replay LSN", client.replayed),
    ] {
        let Some(position) = position else { continue };
        let behind = status.lsn.map_or(0, |lsn| i128::from(position.get()) - i128::from(lsn.get()));
        let behind = i64::try_from(behind).unwrap_or(0);
        let words = pretty_size_signed(behind);
        out.print(&format!("     {title:<11}: {position} (diff: {words})"));
        put(&mut value, key, json!(position.to_string()));
        put(&mut value, &format!("{key}_diff"), json!(words));
        put(&mut value, &format!("{key}_diff_bytes"), json!(behind));
    }
    value
}

/// The server's text of a time as Python prints it: six digits of a second or none, minutes in the offset.
fn started(text: &str) -> String {
    let Some(at) = text.rfind(['+', '-']) else { return text.to_owned() };
    let (clock, offset) = text.split_at(at);
    let clock = match clock.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{fraction:0<6}"),
        None => clock.to_owned(),
    };
    let minutes = if offset.len() == 3 { ":00" } else { "" };
    format!("{clock}{offset}{minutes}")
}
