//! The main job on a throw-away server, in one go: protect a PostgreSQL server, break it, and get it back to the second
//! before. Everything it needs is made in temporary directories and removed at the end.
//!
//! `cargo run --release --example quickstart`

use std::error::Error;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};

use barman_core::config::{Config, LoadEnv};
use barman_core::ctx::{Cancel, Clock, Ctx, Event, Level, ProgressSink, SystemClock};
use barman_core::format::timestamp::python_str;
use barman_core::io::RealDisk;
use barman_core::model::{RecoveryTarget, StopPoint, TargetAction};
use barman_core::pg::Environment;
use barman_core::server::{BackupOptions, Host, RestoreOptions, Server};
use barman_core::transport::SshEnvironment;
use barman_testkit::os::TestDir;
use barman_testkit::pg::{self, Archive, Cluster};
use camino::Utf8Path;
use indicatif::{ProgressBar, ProgressStyle};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    // Any major will do; the newest that is installed is taken, else one is fetched.
    let major = [17, 15, 18, 16, 14].into_iter().find(|m| pg::find(*m).is_some()).unwrap_or(17);
    pg::ensure(major)?;
    let home = TestDir::new("quickstart-")?;
    let incoming = home.subdir("barman/main/incoming")?;

    step(&format!("A PostgreSQL {major} server that archives its WAL"));
    let cluster = Cluster::builder(major).archive_to(&incoming, Archive::Plain).start()?;
    cluster.psql(
        "CREATE TABLE orders (id int PRIMARY KEY, note text); \
         INSERT INTO orders SELECT n, repeat('x', 200) FROM generate_series(1, 200000) AS n",
    )?;
    shown(&cluster, "SELECT count(*) || ' orders' FROM orders")?;

    step("A backup");
    let screen = Screen::default();
    let cancel = Cancel::new();
    let clock = Arc::new(SystemClock::utc());
    let ctx = Ctx { clock: clock.as_ref(), progress: &screen, cancel: &cancel };
    let server = protect(home.path(), &cluster, clock.clone(), &cancel)?;
    let backup = server.backup(&BackupOptions { wait: true, ..BackupOptions::default() }, &ctx)?;

    step("Later: more work, and then the accident");
    cluster.psql("INSERT INTO orders VALUES (200001, 'the last good order')")?;
    // Commit times have microseconds; the moments are kept apart by far more.
    clock.pause(std::time::Duration::from_millis(1100), &cancel)?;
    let before = clock.now();
    clock.pause(std::time::Duration::from_millis(1100), &cancel)?;
    cluster.psql("DROP TABLE orders")?;
    println!("  DROP TABLE orders;   -- a second after {}", python_str(before));
    cluster.archive_now()?;
    server.archive_wal(&ctx)?;

    step(&format!("A restore to {}", python_str(before)));
    let restored = home.path().join("restored");
    let options = RestoreOptions {
        target: RecoveryTarget {
            stop: StopPoint::Time(before),
            action: Some(TargetAction::Promote),
            ..RecoveryTarget::latest()
        },
        jobs: 2,
        ..RestoreOptions::to(restored.clone())
    };
    let outcome = server.restore(&backup.id, &options, &ctx)?;
    print!("{}", outcome.plan);

    step("The proof: PostgreSQL runs on the restored files");
    let mut back = Cluster::open_restored(major, &restored)?;
    shown(
        &back,
        "SELECT count(*) || ' orders, the last one: ' || max(note) FILTER (WHERE id = 200001) FROM orders",
    )?;
    shown(&back, "SELECT 'still in recovery: ' || pg_is_in_recovery()")?;
    let verified = pg::verify_cluster(&mut back)?;
    println!("  pages and indexes are clean ({} indexes checked)", verified.indexes);
    Ok(())
}

/// The server as a user would configure it.
fn protect(home: &Utf8Path, cluster: &Cluster, clock: Arc<dyn Clock>, cancel: &Cancel) -> Outcome<Server> {
    let text = format!(
        "[barman]\nbarman_home = {home}/barman\nbarman_user = barman\ncompression = zstd\nreuse_backup = link\n\
         [main]\ndescription = \"quickstart\"\nconninfo = {}\nbackup_method = local-rsync\n\
         backup_options = concurrent_backup\narchiver = on\nimmediate_checkpoint = true\n",
        cluster.conninfo()
    );
    let path = home.join("barman.conf");
    save(&path, &text)?;
    let disk = Arc::new(RealDisk);
    let config = Config::load(&path, &LoadEnv { disk: disk.as_ref(), home: None, cwd: home })?;
    let host = Host {
        disk,
        clock,
        environment: Environment::default(),
        ssh: SshEnvironment::default(),
        cancel: cancel.clone(),
        command: "quickstart".to_owned(),
        configuration: "/etc/barman.conf".into(),
        workers: 2,
    };
    Ok(Server::open(config.server("main")?.clone(), &config.globals, host)?)
}

#[allow(clippy::disallowed_methods, reason = "a configuration file of an example")]
fn save(path: &Utf8Path, text: &str) -> std::io::Result<()> {
    std::fs::write(path, text)
}

fn step(text: &str) {
    println!("\n== {text}");
}

fn shown(cluster: &Cluster, sql: &str) -> Outcome<()> {
    println!("  {}", cluster.psql(sql)?);
    Ok(())
}

/// Prints messages; a bar on a terminal.
#[derive(Default)]
struct Screen(Mutex<Option<ProgressBar>>);

impl ProgressSink for Screen {
    fn event(&self, event: &Event<'_>) {
        let Ok(mut bar) = self.0.lock() else { return };
        match event {
            Event::Message { level: Level::Info | Level::Warning | Level::Error, text } => match bar.as_ref()
            {
                Some(bar) => bar.suspend(|| println!("  {text}")),
                None => println!("  {text}"),
            },
            Event::StageStarted { stage, total, .. } if std::io::stdout().is_terminal() => {
                let fresh = ProgressBar::new(total.unwrap_or(0)).with_message((*stage).to_owned());
                if let Ok(style) =
                    ProgressStyle::with_template("  {msg} [{bar:30}] {bytes}/{total_bytes} {eta}")
                {
                    fresh.set_style(style.progress_chars("=> "));
                }
                *bar = Some(fresh);
            }
            Event::Advanced { by } => {
                if let Some(bar) = bar.as_ref() {
                    bar.inc(*by);
                }
            }
            Event::StageFinished => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
    }
}
