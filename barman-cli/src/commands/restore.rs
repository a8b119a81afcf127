//! `barman restore SERVER BACKUP DESTINATION`

use std::collections::BTreeMap;
use std::time::Duration;

use barman_core::config::ServerConfig;
use barman_core::format::timestamp;
use barman_core::model::{BackupInfo, RecoveryTarget, StopPoint, TargetAction, TargetTimeline};
use barman_core::recovery::{ConfigLine, WalDelivery};
use barman_core::server::{RestoreOptions, RestoreOutcome, Server};
use camino::Utf8PathBuf;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::error::Failure;
use crate::output::ascii_json;

use super::restore_plan::{foretell, plan_json};
use super::restore_staging::Staging;

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  barman restore main latest /srv/restored\n  \
    barman restore --target-time '2026-11-22 21:46:00+00:00' main latest /srv/restored\n  \
    barman restore --delta-restore main latest /var/lib/postgresql/16/main\n  \
    barman restore --remote-ssh-command 'ssh postgres@other' --tablespace ts1:/srv/ts1 main 20261122T214528 /srv/restored")]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The backup: an id, a name, latest, oldest, or auto.
    backup_id: String,
    /// The data directory to make.
    destination_directory: Utf8PathBuf,
    /// Stop at this time.
    #[arg(long, value_name = "TIME")]
    target_time: Option<String>,
    /// Stop at this transaction.
    #[arg(long, value_name = "XID")]
    target_xid: Option<String>,
    /// Stop at this WAL position.
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<String>,
    /// Stop at this restore point.
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,
    /// Stop as soon as the server is consistent.
    #[arg(long)]
    target_immediate: bool,
    /// Follow this timeline: an id, 'current' or 'latest'.
    #[arg(long, value_name = "TIMELINE")]
    target_tli: Option<TargetTimeline>,
    /// Stop just before the target.
    #[arg(long)]
    exclusive: bool,
    /// What the server does at the target.
    #[arg(long, value_name = "ACTION")]
    target_action: Option<TargetAction>,
    /// Put a tablespace elsewhere; may be given several times.
    #[arg(long, value_name = "NAME:LOCATION")]
    tablespace: Vec<String>,
    /// Restore to the host that this command reaches.
    #[arg(long, value_name = "COMMAND")]
    remote_ssh_command: Option<String>,
    /// Compress what crosses the network.
    #[arg(long, overrides_with = "no_network_compression")]
    network_compression: bool,
    /// Do not compress it.
    #[arg(long)]
    no_network_compression: bool,
    /// Where WAL is put for a point-in-time recovery.
    #[arg(long, value_name = "DIRECTORY")]
    staging_wal_directory: Option<Utf8PathBuf>,
    /// Most KiB a second.
    #[arg(long, value_name = "KBPS")]
    bwlimit: Option<u32>,
    /// Parallel workers.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// Seconds of a window in which only so many workers start.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    jobs_start_batch_period: Option<u32>,
    /// How many workers may start in a window.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs_start_batch_size: Option<u32>,
    /// Go on so often after the connection was lost.
    #[arg(long, value_name = "N", overrides_with = "no_retry")]
    retry_times: Option<u32>,
    /// Seconds to wait before that.
    #[arg(long, value_name = "SECONDS")]
    retry_sleep: Option<u32>,
    /// Never go on after the connection was lost.
    #[arg(long, overrides_with = "retry_times")]
    no_retry: bool,
    /// Let the server fetch its WAL from here.
    #[arg(long, overrides_with = "no_get_wal")]
    get_wal: bool,
    /// Copy the WAL.
    #[arg(long)]
    no_get_wal: bool,
    /// Make a standby.
    #[arg(long)]
    standby_mode: bool,
    /// Use the last, unfinished segment too: what was received of a server that is lost.
    #[arg(long)]
    partial_wal: bool,
    /// The file that recovery settings are appended to (PostgreSQL 12 and later).
    #[arg(long, value_name = "FILE")]
    recovery_conf_filename: Option<String>,
    /// Port for the generated barman-wal-restore command.
    #[arg(long, value_name = "PORT")]
    recovery_option_port: Option<u16>,
    /// A restore_command of your own, with --get-wal.
    #[arg(long, value_name = "COMMAND")]
    restore_command: Option<String>,
    /// Restore into a place that holds an older cluster, which does not run: files that are equal by content stay as they
    /// are, the others are written, and what the backup does not have is removed. For every kind of backup (Barman refuses it
    /// on this host for those that are not plain).
    #[arg(long, overrides_with = "no_delta_restore")]
    delta_restore: bool,
    /// Restore into empty places only.
    #[arg(long)]
    no_delta_restore: bool,
    /// With --delta-restore: remove the WAL of the old cluster, too, where it may not be archived. It is kept aside otherwise.
    #[arg(long)]
    native_discard_old_wal: bool,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    native_dry_run: bool,
    #[command(flatten)]
    staging: Staging,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let mut config = app.server(&arguments.server_name)?.clone();
    for (option, value) in overrides(arguments) {
        config.apply_override(option, &value).map_err(|e| Failure::Error(e.to_string()))?;
    }
    let config = &config;
    let server = app.open(config)?;
    let target = target(arguments, app)?;
    if arguments.destination_directory.as_str().contains(':') {
        return Err(Failure::Error(
            "The destination directory parameter cannot contain the ':' character\n\
             HINT: If you want to do a remote recovery you have to use the --remote-ssh-command option"
                .to_owned(),
        ));
    }
    let backup = choose(arguments, &server, &target, app)?;
    arguments.staging.judge(arguments.remote_ssh_command.is_some())?;
    let options = RestoreOptions {
        destination: absolute(&arguments.destination_directory)?,
        target,
        tablespaces: rules(&arguments.tablespace, &backup)?,
        wal: delivery(arguments, config)?,
        standby: arguments.standby_mode,
        partial_wal: arguments.partial_wal,
        settings_file: arguments.recovery_conf_filename.clone(),
        remote: arguments.remote_ssh_command.clone(),
        compressed: compressed(arguments, config)?,
        jobs: usize::try_from(config.options.parallel_jobs).unwrap_or(1),
        start_batch: (
            usize::try_from(config.options.parallel_jobs_start_batch_size).unwrap_or(1).max(1),
            seconds(config.options.parallel_jobs_start_batch_period),
        ),
        bandwidth: config
            .options
            .bandwidth_limit
            .and_then(|limit| u64::try_from(limit.0).ok())
            .filter(|limit| *limit > 0)
            .map(|limit| limit.saturating_mul(1024)),
        retry_times: u32::try_from(config.options.basebackup_retry_times).unwrap_or(0),
        retry_sleep: seconds(config.options.basebackup_retry_sleep),
        told: told(arguments),
        delta: !arguments.no_delta_restore
            && (arguments.delta_restore || config.options.recovery_options.delta_restore),
        discard_wal: arguments.native_discard_old_wal,
    };
    let ctx = app.ctx();
    if !backup.status.is_available() {
        return Err(Failure::Error(format!(
            "Cannot restore from backup '{}' of server '{}': backup status is not DONE",
            backup.id, config.name
        )));
    }
    arguments.staging.judge_for(&backup, config, app)?;
    server.archive_before_restore(&ctx);
    if arguments.native_dry_run {
        let plan = server.plan_restore(&backup, &options, &ctx)?;
        // A plan can be shown of a backup whose files cannot be read just now.
        let forecast = server.forecast(&plan, &backup, &ctx);
        if let Err(error) = &forecast {
            app.output.warning(&format!("What the restore will take is not known: {error}"));
        }
        let forecast = forecast.ok();
        app.output.print(plan.to_string().trim_end());
        for line in forecast.iter().flat_map(foretell) {
            app.output.print(&line);
        }
        if options.delta {
            app.output.print(
                "  note: files of the destination that are equal stay, what the backup does not have is removed",
            );
        }
        app.output.put("native_plan", plan_json(&plan, forecast.as_ref()));
        return Ok(());
    }
    let began = app.host.clock.now();
    let start = ctx.clock.monotonic();
    let outcome = server.restore(&backup.id, &options, &ctx)?;
    let elapsed = ctx.clock.monotonic().saturating_sub(start);
    draw(&outcome, app);
    if matches!(options.wal, WalDelivery::Fetch { .. }) {
        let file = outcome.plan.settings.as_ref().map_or("postgresql.auto.conf", |s| s.file.as_str());
        app.output.warning(&format!(
            "'get-wal' is in the specified 'recovery_options'.\n\
             Before you start up the PostgreSQL server, please review the {file} file\n\
             inside the target directory. Make sure that 'restore_command' can be executed by the PostgreSQL user."
        ));
        app.output.print("");
    }
    let words = barman_core::format::text::human_duration(elapsed.try_into().unwrap_or_default());
    app.output.print(&format!(
        "Restore operation completed (start time: {}, elapsed time: {words})",
        timestamp::python_str(began)
    ));
    app.output.print("Your PostgreSQL server has been successfully prepared for recovery!");
    app.output.put("recovery_start_time", json!(timestamp::ctime(began)));
    app.output.put("recovery_start_time_timestamp", json!(began.unix_timestamp().to_string()));
    app.output.put("recovery_elapsed_time", json!(words));
    app.output.put("recovery_elapsed_time_seconds", json!(elapsed.as_secs_f64()));
    Ok(())
}

/// Options of the command that stand for options of the configuration.
fn overrides(arguments: &Arguments) -> Vec<(&'static str, String)> {
    let retry_times = if arguments.no_retry { Some(0) } else { arguments.retry_times };
    [
        ("basebackup_retry_times", retry_times),
        ("basebackup_retry_sleep", arguments.retry_sleep),
        ("parallel_jobs", arguments.jobs),
        ("parallel_jobs_start_batch_period", arguments.jobs_start_batch_period),
        ("parallel_jobs_start_batch_size", arguments.jobs_start_batch_size),
        ("bandwidth_limit", arguments.bwlimit),
    ]
    .into_iter()
    .filter_map(|(option, value)| Some((option, value?.to_string())))
    .chain(arguments.staging.place().map(|path| ("staging_path", path.to_owned())))
    .collect()
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

/// What scripts are told of the options, as they were given.
fn told(arguments: &Arguments) -> String {
    let text = |value: &Option<String>| value.clone().map(Value::from);
    let switch = |on: bool| on.then_some(Value::Bool(true));
    let timeline = arguments.target_tli.map(|timeline| {
        let text = timeline.to_string();
        text.parse::<u32>().map_or_else(|_| text.into(), Value::from)
    });
    let given = [
        ("exclusive", switch(arguments.exclusive)),
        ("recovery_conf_filename", text(&arguments.recovery_conf_filename)),
        ("standby_mode", switch(arguments.standby_mode)),
        ("target_action", arguments.target_action.map(|action| action.as_str().into())),
        ("target_immediate", switch(arguments.target_immediate)),
        ("target_lsn", text(&arguments.target_lsn)),
        ("target_name", text(&arguments.target_name)),
        ("target_time", text(&arguments.target_time)),
        ("target_tli", timeline),
        ("target_xid", text(&arguments.target_xid)),
    ];
    let given: Map<String, Value> =
        given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    if given.is_empty() { String::new() } else { ascii_json(&Value::Object(given)) }
}

fn target(arguments: &Arguments, app: &App) -> Result<RecoveryTarget, Failure> {
    let mut stops = Vec::new();
    if let Some(text) = &arguments.target_time {
        let clock = app.host.clock.as_ref();
        let given = timestamp::parse(text, &|local| clock.resolve_local(local)).map_err(|e| {
            Failure::Error(format!("Unable to parse the target time parameter '{text}': {e}"))
        })?;
        if !given.zone_given {
            app.output.warning(
                "No time zone has been specified through '--target-time' command-line option. \
                 Barman assumed the same time zone from the Barman host.",
            );
        }
        stops.push(StopPoint::Time(given.instant));
    }
    if let Some(text) = &arguments.target_xid {
        let xid = text.parse().map_err(|_| Failure::Error(format!("'{text}' is not a transaction id")))?;
        stops.push(StopPoint::Xid(xid));
    }
    if let Some(text) = &arguments.target_lsn {
        stops.push(StopPoint::Lsn(
            text.parse().map_err(|e: barman_core::model::ParseError| Failure::Error(e.to_string()))?,
        ));
    }
    if let Some(name) = &arguments.target_name {
        stops.push(StopPoint::Name(name.clone()));
    }
    if arguments.target_immediate {
        stops.push(StopPoint::Immediate);
    }
    if stops.len() > 1 {
        return Err(Failure::Error(
            "You cannot specify multiple targets for the recovery operation".to_owned(),
        ));
    }
    Ok(RecoveryTarget {
        stop: stops.pop().unwrap_or(StopPoint::Latest),
        inclusive: !arguments.exclusive,
        timeline: arguments.target_tli.unwrap_or_default(),
        action: arguments.target_action,
    })
}

/// The backup: named, or with `auto` the newest one from which the target can be reached.
fn choose(
    arguments: &Arguments,
    server: &Server,
    target: &RecoveryTarget,
    app: &App,
) -> Result<BackupInfo, Failure> {
    if arguments.backup_id != "auto" {
        return Ok(server.resolve(&arguments.backup_id, &app.ctx())?);
    }
    let refused = match &target.stop {
        StopPoint::Xid(_) => Some("target_xid"),
        StopPoint::Name(_) => Some("target_name"),
        StopPoint::Immediate => Some("target_immediate"),
        _ => None,
    };
    if let Some(option) = refused {
        return Err(Failure::Error(format!(
            "For PITR without a backup_id, the only possible recovery targets are target_time and target_lsn. \
             '{option}' recovery target is not allowed without a backup_id."
        )));
    }
    if target.timeline == TargetTimeline::Current {
        return Err(Failure::Error(
            "'current' is not a valid timeline keyword when recovering without a backup_id".to_owned(),
        ));
    }
    let fits = |b: &BackupInfo| match &target.stop {
        StopPoint::Time(time) => b.end_time.is_some_and(|end| end <= *time),
        StopPoint::Lsn(lsn) => b.end_xlog.is_some_and(|end| end <= *lsn),
        _ => true,
    };
    let timeline = |b: &BackupInfo| match target.timeline {
        TargetTimeline::Id(id) => b.timeline == Some(id),
        _ => true,
    };
    let backups = server.backups(&app.ctx())?;
    let found = backups
        .into_iter()
        .filter(|b| b.status.is_available() && fits(b) && timeline(b))
        .max_by_key(|b| b.id);
    found.ok_or_else(|| Failure::Error("Cannot find any candidate backup for recovery.".to_owned()))
}

fn rules(given: &[String], backup: &BackupInfo) -> Result<BTreeMap<String, Utf8PathBuf>, Failure> {
    let mut rules = BTreeMap::new();
    for rule in given {
        let (name, location) =
            rule.split_once(':').filter(|(n, l)| !n.is_empty() && !l.is_empty()).ok_or_else(|| {
                Failure::Error(format!(
                    "Invalid tablespace relocation rule '{rule}'\n\
                 HINT: The valid syntax for a relocation rule is NAME:LOCATION"
                ))
            })?;
        if !backup.tablespaces.iter().any(|t| t.name == name) {
            let known: Vec<&str> = backup.tablespaces.iter().map(|t| t.name.as_str()).collect();
            return Err(Failure::Error(format!(
                "Invalid tablespace name '{name}'\nHINT: Please use any of the following tablespaces: {}",
                known.join(", ")
            )));
        }
        rules.insert(name.to_owned(), Utf8PathBuf::from(location));
    }
    Ok(rules)
}

/// How the restored server gets its WAL, with Barman's commands.
fn delivery(arguments: &Arguments, config: &ServerConfig) -> Result<WalDelivery, Failure> {
    let fetch = !arguments.no_get_wal && (arguments.get_wal || config.options.recovery_options.get_wal);
    if !fetch {
        if arguments.restore_command.is_some() {
            return Err(Failure::Error("--restore-command can only be used with get-wal".to_owned()));
        }
        return Ok(WalDelivery::Copy { directory: arguments.staging_wal_directory.clone() });
    }
    if let Some(command) = &arguments.restore_command {
        return Ok(WalDelivery::Fetch { restore_command: command.clone(), comment: None });
    }
    let name = &config.name;
    let partial = if arguments.standby_mode { "" } else { "-P" };
    if arguments.remote_ssh_command.is_none() {
        return Ok(WalDelivery::Fetch {
            restore_command: format!("barman get-wal {partial} {name} %f > %p"),
            comment: Some("The 'barman get-wal' command must run as 'barman' user".to_owned()),
        });
    }
    let user = uzers::get_current_username()
        .and_then(|n| n.into_string().ok())
        .unwrap_or_else(|| "barman".to_owned());
    let port = arguments.recovery_option_port.map(|p| format!("--port {p}")).unwrap_or_default();
    let jobs = arguments.jobs.filter(|j| *j > 1).map(|j| format!("-p {j}")).unwrap_or_default();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let words = ["barman-wal-restore", partial, "-U", &user, &port, &host, name.as_str(), "%f", "%p", &jobs];
    Ok(WalDelivery::Fetch {
        restore_command: words.into_iter().filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" "),
        comment: Some("The 'barman-wal-restore' command is provided in the 'barman-cli' package".to_owned()),
    })
}

fn compressed(arguments: &Arguments, config: &ServerConfig) -> Result<bool, Failure> {
    if arguments.network_compression && arguments.remote_ssh_command.is_none() {
        return Err(Failure::Error(
            "Network compression can only be used with remote recovery.\n\
             HINT: If you want to do a remote recovery you have to use the --remote-ssh-command option"
                .to_owned(),
        ));
    }
    let wanted = arguments.network_compression || config.options.network_compression;
    Ok(wanted && !arguments.no_network_compression && arguments.remote_ssh_command.is_some())
}

fn absolute(path: &Utf8PathBuf) -> Result<Utf8PathBuf, Failure> {
    if path.is_absolute() {
        return Ok(path.clone());
    }
    let cwd = std::env::current_dir().ok().and_then(|d| Utf8PathBuf::from_path_buf(d).ok());
    let cwd = cwd.ok_or_else(|| Failure::Error("The current directory cannot be found".to_owned()))?;
    Ok(cwd.join(path))
}

fn draw(outcome: &RestoreOutcome, app: &App) {
    let out = &app.output;
    let report = &outcome.report.config;
    let line = |l: &ConfigLine| {
        let value = l.value.as_deref().unwrap_or("None");
        format!("{} line {}: {} = {value}", l.file, l.line, l.key)
    };
    let member = |l: &ConfigLine| json!([l.file, l.line, l.key, l.value]);
    if !report.changes.is_empty() {
        out.print("");
        out.print("IMPORTANT");
        out.print("These settings have been modified to prevent data losses");
        out.print("");
        report.changes.iter().for_each(|l| out.print(&line(l)));
    }
    if !report.dangerous.is_empty() {
        out.print("");
        out.print("WARNING");
        out.print("You are required to review the following options as potentially dangerous");
        out.print("");
        report.dangerous.iter().for_each(|l| out.print(&line(l)));
    }
    if !report.missing_files.is_empty() {
        out.print("");
        out.print("WARNING");
        out.print("The following configuration files have not been saved during backup, hence they have not been restored.");
        out.print("You need to manually restore them in order to start the restored PostgreSQL instance:");
        out.print("");
        report.missing_files.iter().for_each(|f| out.print(&format!("    {f}")));
    }
    out.print("");
    out.put("changes", report.changes.iter().map(member).collect());
    out.put("changes_count", json!(report.changes.len()));
    out.put("warnings", report.dangerous.iter().map(member).collect());
    out.put("warnings_count", json!(report.dangerous.len()));
    out.put("missing_files", json!(report.missing_files));
}
