//! A program of your own that takes backups: load a configuration, open a server, take a backup.
//!
//! `cargo run --release --example embed_backup -- /etc/barman.conf main`

use std::sync::Arc;

use barman_core::config::{Config, LoadEnv};
use barman_core::ctx::{Cancel, Ctx, Silent, SystemClock};
use barman_core::io::RealDisk;
use barman_core::pg::Environment;
use barman_core::server::{BackupOptions, Host, Server};
use barman_core::transport::SshEnvironment;
use camino::Utf8Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, name] = arguments.as_slice() else {
        return Err("usage: embed_backup CONFIGURATION SERVER".into());
    };

    let (disk, clock, cancel) = (Arc::new(RealDisk), Arc::new(SystemClock::utc()), Cancel::new());
    let env = LoadEnv { disk: disk.as_ref(), home: None, cwd: Utf8Path::new("/") };
    let config = Config::load(Utf8Path::new(path), &env)?;
    let host = Host {
        disk: disk.clone(),
        clock: clock.clone(),
        environment: Environment::new(std::env::vars()),
        ssh: SshEnvironment::default(),
        cancel: cancel.clone(),
        command: "embed_backup".into(),
        configuration: "/etc/barman.conf".into(),
        workers: 2,
    };
    let server = Server::open(config.server(name)?.clone(), &config.globals, host)?;
    let ctx = Ctx { clock: clock.as_ref(), progress: &Silent, cancel: &cancel };
    let backup = server.backup(&BackupOptions { wait: true, ..BackupOptions::default() }, &ctx)?;
    println!("{} is {}: {} to {}", backup.id, backup.status, text(backup.begin_xlog), text(backup.end_xlog));
    Ok(())
}

fn text(lsn: Option<barman_core::model::Lsn>) -> String {
    lsn.map_or_else(|| "?".to_owned(), |lsn| lsn.to_string())
}
