//! The configuration as we understand it against the original Barman: `diagnose` of both on the same files. Compared
//! are all values with their sources, the messages that disable a server, conflicts, models, warnings and their order.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![allow(clippy::disallowed_methods, reason = "a test prepares its files")]

use barman_core::config::{Config, ConfigError, LoadEnv, Notice, Severity};
use barman_core::io::RealDisk;
use barman_testkit::oracle::Barman;
use barman_testkit::os::{Account, TestDir};
use camino::Utf8Path;
use serde_json::{Map, Value, json};

/// What every good server of the table has.
const GOOD: &str =
    "conninfo=host=/nowhere\nssh_command=false\narchiver=on\nbackup_options=concurrent_backup\n";

/// A name; what follows `barman_home`, `barman_user` and `log_file` in the main file (`@` is the test's directory, `GOOD`
/// the lines above); further files with their paths.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

const CASES: &[Case] = &[
    ("defaults", "[x]\nGOOD", &[]),
    ("nothing set", "[x]\n", &[]),
    ("no servers", "", &[]),
    (
        "every type",
        "[x]\nactive=yes\narchiver=ON\narchiver_batch_size=10\nautogenerate_manifest=t\naws_check_object_lock=1\n\
         aws_encryption=aws:kms\naws_profile=p\naws_read_timeout=5\naws_snapshot_lock_duration=40000\n\
         backup_compression=NONE\nbackup_compression_format=TAR\nbackup_compression_level=-99\n\
         backup_compression_location=Server\nbackup_compression_workers=-1\nbackup_method=Local-Rsync\n\
         backup_options=concurrent_backup\nbandwidth_limit=100\nbasebackup_retry_sleep=1_0\nbasebackup_retry_times=-3\n\
         check_timeout=+5\ncloud_staging_directory=/x/y\ncloud_staging_max_size=1Gi\ncloud_upload_max_archive_size=5k\n\
         cloud_upload_min_chunk_size=6 Ki\ncluster=c\ncombine_mode=LINK\ncompression=GZIP\ncompression_level=HIGH\n\
         conninfo=host=/nowhere\ncreate_slot=AUTO\ncustom_compression_magic=0xZZ\ndescription='quo ted'\nencryption=NONE\n\
         errors_directory=@/e/\nforward_config_path=off\nkeepalive_interval=0\nlast_backup_maximum_age=1 DAYS\n\
         last_backup_minimum_size=12 Ti\nlast_wal_maximum_age=25 hour\nmax_incoming_wals_queue=-5\n\
         minimum_redundancy=3\nparallel_jobs=0\npath_prefix=/a:/b\nrecovery_options=get-wal, delta-restore\n\
         recovery_staging_path=/rs\nretention_policy=redundancy  2\nreuse_backup=OFF\nslot_name=AB\n\
         snapshot_disks=a, b,c\nstaging_path=/sp\nstaging_location=remote\ntablespace_bandwidth_limit=a:1 b:2 a:3\n\
         warehousepg_dbid=-1\nwals_directory=@/w\nworm_mode=off\npre_backup_script=a b\n",
        &[],
    ),
    (
        "every refusal",
        "[x]\nGOODactive=2\narchiver= maybe\narchiver_batch_size=1.5\nautogenerate_manifest=\naws_check_object_lock=x\n\
         aws_encryption=aes256\naws_read_timeout=\naws_await_snapshots_timeout=1 2\naws_snapshot_lock_duration=x\n\
         aws_snapshot_lock_cool_off_period=x\nbackup_compression=BOGUS\nbackup_compression_format=x\n\
         backup_compression_level=x\nbackup_compression_location=x\nbackup_compression_workers=x\nbackup_method=ftp\n\
         backup_options=FOO, zar\nbasebackup_retry_sleep=x\nbasebackup_retry_times=x\ncheck_timeout=None\n\
         cloud_delete_batch_size=x\ncloud_staging_directory=rel\ncloud_staging_max_size=5K\n\
         cloud_upload_max_archive_size=-1\ncloud_upload_min_chunk_size=5.5M\ncloud_wal_archive_parallel=x\n\
         cloud_wal_restore_parallel=x\ncombine_mode=BOGUS\ncompression=none\ncompression_level=9_9\ncreate_slot=x\n\
         encryption=AES\nforward_config_path=x\nimmediate_checkpoint=x\nkeepalive_interval=0x10\n\
         last_backup_maximum_age=3 fortnights\nlast_backup_minimum_size=1Gib\nlast_wal_maximum_age=1day\n\
         local_staging_path=rel\nmax_incoming_wals_queue='it''s'\nnetwork_compression=x\nparallel_jobs=x\n\
         parallel_jobs_start_batch_period=x\nparallel_jobs_start_batch_size=x\nprimary_checkpoint_timeout=x\n\
         recovery_options=get-wal,BAR\nrecovery_staging_path=rel\nreuse_backup=yes\nslot_name=A-B\nsnapshot_disks=a,,b\n\
         staging_path=rel\nstaging_location=REMOTE\nstreaming_archiver=x\nstreaming_archiver_batch_size=x\n\
         wals_directory=https://foo/x\nbasebackups_directory=ftp://x\nwarehousepg_dbid=x\nworm_mode=x\ndisabled=true\n",
        &[],
    ),
    (
        "judged late",
        "[x]\nGOODbandwidth_limit=z\nminimum_redundancy=q\ntablespace_bandwidth_limit=a b:1 c:x\nretention_policy=t\n\
         retention_policy_mode=foo\nwal_retention_policy=bar\n[y]\nGOODminimum_redundancy=-1\nretention_policy_mode=\n\
         wal_retention_policy=bar\n[z]\nGOODretention_policy=Recovery Window of 3 month\nwal_retention_policy=\n\
         bandwidth_limit=-1\n",
        &[],
    ),
    (
        "empty texts",
        "compression=gzip\npath_prefix=/x\n[x]\nGOODcompression=\npath_prefix=\ncompression_level=None\ncluster=\n\
         streaming_conninfo=\nstreaming_archiver_name=\nlast_wal_maximum_age=\ncloud_staging_max_size=\nbackup_options=\n\
         wal_retention_policy=\nretention_policy=\nbandwidth_limit=\ntablespace_bandwidth_limit=None\n",
        &[],
    ),
    (
        "inheritance",
        "check_timeout=7\narchiver_batch_size=8\ncompression=gzip\nbackup_compression=bogus\nkeepalive_interval=3\n\
         ssh_command=none\nprimary_checkpoint_timeout=4\ngcp_zone=a\ndescription=no\nminimum_redundancy=2\n\
         [x]\nGOODcheck_timeout=x\narchiver_batch_size=bogus\ncompression=bogus\nminimum_redundancy=q\n[y]\nGOOD",
        &[],
    ),
    (
        "unknown keys",
        "foo=1\nZOO=1\n[x]\nGOODzz=1\nAA=2\nmodel=off\n[m]\nmodel=on\ncluster=x\nwals_directory=/x\nfoo=1\n\
         pre_backup_script=a\ncompression=bogus\nactive=\n[DEFAULT]\nbb=1\ncheck_timeout=5\n",
        &[],
    ),
    (
        "quotes",
        "[x]\nGOODdescription=''a''\npre_backup_script=\"\npost_backup_script='a' b'\narchiver_batch_size='3'\n",
        &[],
    ),
    ("interpolation", "[x]\nGOODdescription=%(conninfo)s-%%(conninfo)s-%%%%\n", &[]),
    ("several lines", "[x]\nGOODdescription=a\n b\n # no\n\n   c\npre_backup_script : d=e ; f\n", &[]),
    (
        "further files",
        "configuration_files_directory=@/d\n[x]\nGOODdescription=main\n[y]\nGOOD",
        &[
            ("d/b.conf", "[x]\ndescription=b\n[barman]\nlog_file=@/log\n"),
            ("d/a.conf", "[x]\ndescription=a\ncheck_timeout=3\n[new]\nGOOD"),
            ("d/c.txt", "not read"),
            ("home/.barman.auto.conf", "[y]\ndescription=auto\n"),
        ],
    ),
    ("no such directory", "configuration_files_directory=@/none\n", &[]),
    (
        "a file changes barman",
        "configuration_files_directory=@/d\n",
        &[("d/a.conf", "[barman]\nlog_level=INFO\n")],
    ),
    ("a file with an error", "configuration_files_directory=@/d\n", &[("d/a.conf", "loose\n")]),
    ("bad lines", "[x]\nfoo\nbar\n", &[]),
    ("stray percent", "[x]\ndescription=a%b\n", &[]),
    ("lone percent", "[x]\ndescription=a%%b\n", &[]),
    ("unknown reference", "[x]\ndescription=%(name)s\n", &[]),
    ("unknown reference, second pass", "[x]\ndescription=%%(barman_home)s\n", &[]),
    ("all", "[all]\nGOOD", &[]),
    ("bad switch", "lock_directory_cleanup=perhaps\n", &[]),
    ("bad model", "[m]\nmodel=maybe\n", &[]),
    ("model without cluster", "[m]\nmodel=true\n", &[]),
    (
        "globals",
        "barman_lock_directory='@/l'\nlock_directory_cleanup='off'\nlog_level=WARNING\nconfig_changes_queue=/q\n",
        &[],
    ),
    (
        "active models",
        "[a]\nGOODcluster=c\n[b]\nGOODcluster=c\n[c]\nGOODcluster=c\n[d]\nGOOD[e]\nGOOD[m]\nmodel=on\ncluster=c\n\
         conninfo=host=/other\nactive=off\ncompression='bzip2'\nbackup_options=external_configuration\ndescription=\n\
         minimum_redundancy=3\nretention_policy=redundancy 4\narchiver=bad\nsnapshot_disks=a,b\n\
         last_wal_maximum_age=3 days\n",
        &[
            ("home/a/.active-model.auto", "m"),
            ("home/b/.active-model.auto", "gone\n"),
            ("home/c/.active-model.auto", " \n"),
            ("home/d/.active-model.auto", "m"),
        ],
    ),
    (
        "model disables",
        "[a]\nGOOD[m]\nmodel=on\ncluster=a\ndisabled=true\n",
        &[("home/a/.active-model.auto", "m\n")],
    ),
    (
        "states",
        "[a]\nactive=no\nprimary_ssh_command=x\n[b]\nactive=no\nwals_directory=@/z\nerrors_directory=@/z\n[c]\n\
         primary_ssh_command=x\nwals_directory=@/u\nerrors_directory=@/u\nconninfo=a b\n[d]\nactive=off\nconninfo=x\n\
         backup_compression=gzip\nstreaming_archiver=on\n",
        &[],
    ),
    (
        "paths within a server",
        "[x]\nwals_directory=/x\nerrors_directory=/x\n[y]\nGOODerrors_directory=@/home/y/base/a/../\n\
         [z]\nGOODincoming_wals_directory=@/home/z\n",
        &[("home/x/.active-model.auto", "zork")],
    ),
    (
        "paths between servers",
        "[y]\nGOODwals_directory=/b\n[x]\nGOODerrors_directory=/a\nwals_directory=/a\n[w]\nGOODwals_directory=/b\n\
         errors_directory=/a\n[v]\nGOODbackup_directory=@/home/../home/x\n",
        &[],
    ),
    (
        "connections",
        "[a]\nGOODconninfo=a\nprimary_conninfo=b\n[b]\nGOODprimary_conninfo=d e\n[c]\nGOODstreaming_conninfo=x y\n[d]\n\
         GOODstreaming_conninfo=x y\nbackup_method=postgres\n[e]\nGOODstreaming_conninfo=x y\nstreaming_archiver=on\n\
         [f]\nGOODwal_conninfo=x y\nwal_streaming_conninfo=z\nstreaming_archiver=on\nslot_name=a\n[g]\nbackup_method=postgres\n\
         streaming_archiver=on\nslot_name=a\n[h]\nGOODconninfo=\n",
        &[],
    ),
    (
        "archivers",
        "[a]\nGOODarchiver=off\nstreaming_archiver=on\n[b]\nGOODarchiver=off\nstreaming_archiver=on\nslot_name=s\n[c]\n\
         GOODarchiver=off\n[d]\nGOODstreaming_archiver=on\n[e]\nGOODarchiver=off\nstreaming_archiver=on\nslot_name=s\n\
         streaming_conninfo=\n",
        &[],
    ),
    (
        "method rsync",
        "[a]\nGOODbackup_options=\n[b]\nGOODbackup_options=external_configuration\n[c]\nGOODbackup_options=exclusive_backup\n\
         [d]\nGOODbackup_options=exclusive_backup, concurrent_backup\n[e]\nGOODbackup_options=concurrent_backup, exclusive_backup\n\
         [f]\nGOODbackup_compression=gzip\nbackup_options=\n[g]\nGOODssh_command=\nbackup_options=\n\
         [h]\nGOODbackup_options=external_configuration,concurrent_backup,\n",
        &[],
    ),
    (
        "method local-rsync",
        "[a]\nGOODbackup_method=local-rsync\nbackup_compression=gzip\nbackup_options=\n[b]\nGOODbackup_method=local-rsync\n\
         backup_compression=gzip\nssh_command=\nbackup_options=\n",
        &[],
    ),
    (
        "method postgres",
        "[a]\nGOODbackup_method=postgres\nreuse_backup=link\ntablespace_bandwidth_limit=a:1\nnetwork_compression=on\n\
         [b]\nGOODbackup_method=postgres\nreuse_backup=off\nbackup_options=exclusive_backup\ntablespace_bandwidth_limit=x\n\
         [c]\nGOODbackup_method=postgres\nbackup_options=\nbandwidth_limit=5\nssh_command=\n",
        &[],
    ),
    (
        "method snapshot",
        "[a]\nGOODbackup_method=snapshot\n[b]\nGOODbackup_method=snapshot\nssh_command=\nbackup_options=\n[c]\nGOOD\
         backup_method=snapshot\nreuse_backup=copy\nbackup_compression=gzip\nnetwork_compression=on\nbandwidth_limit=4\n\
         tablespace_bandwidth_limit=a:1\nsnapshot_provider=foo\nsnapshot_instance=i\nsnapshot_disks=a\nbackup_options=\n\
         [d]\nGOODbackup_method=snapshot\nreuse_backup=off\nbandwidth_limit=0\nsnapshot_provider=foo\nsnapshot_disks=a,b\n",
        &[],
    ),
    (
        "method local-to-cloud",
        "[a]\nGOODbackup_method=local-to-cloud\nreuse_backup=link\nbackup_options=\n",
        &[],
    ),
];

/// What one of the two makes of a case.
#[derive(Debug, PartialEq)]
struct Understanding {
    /// The lines on stderr.
    console: Vec<String>,
    /// What only the log is told.
    log: Vec<String>,
    /// `global.config`, `servers` and `models` of `diagnose`.
    diagnose: Value,
}

fn theirs(barman: &Barman, dir: &Utf8Path) -> Understanding {
    let run = barman.run(&dir.join("barman.conf"), &["diagnose", "--show-config-source"]).unwrap();
    // The traceback of an exception before the log is open goes to stderr, too.
    let mut console: Vec<String> = Vec::new();
    for line in run.stderr.lines() {
        if line == "See log file for more details." {
            console.push(line.to_owned());
            break;
        }
        console.push(line.to_owned());
    }
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let kept = |line: &str| {
        let (head, text) = line.split_once(": ")?;
        let mut words = head.rsplit(' ');
        let (level, logger) = (words.next()?, words.next()?);
        let ours = ["barman.config", "barman.server", "barman.backup_executor"].contains(&logger);
        (ours && ["WARNING", "ERROR"].contains(&level)).then(|| text.to_owned())
    };
    let told = |text: &String| console.iter().any(|line| line.ends_with(text.as_str()));
    let log = log.lines().filter_map(kept).filter(|text| !told(text) && !asks_postgres(text)).collect();
    let answer: Value = serde_json::from_str(&run.stdout).unwrap_or(Value::Null);
    let servers = answer["servers"].as_object().cloned().unwrap_or_default();
    let servers: Map<String, Value> = servers
        .into_iter()
        .map(|(name, server)| {
            let mut config = server["config"].clone();
            for option in ["backup_options", "recovery_options"] {
                sort_words(&mut config[option]["value"]);
            }
            let kept = json!({ "config": config, "msg_list": server["msg_list"], "active_model": server["active_model"] });
            (name, kept)
        })
        .collect();
    let diagnose = match answer {
        Value::Null => Value::Null,
        _ => json!({ "global": answer["global"]["config"], "servers": servers, "models": answer["models"] }),
    };
    Understanding { console, log, diagnose }
}

/// What only a connection to PostgreSQL brings up.
fn asks_postgres(text: &str) -> bool {
    text.contains("Could not validate") || text.contains("Error retrieving PostgreSQL status")
}

/// Barman tells of unknown keys of `[barman]`, and of refused values of models, in random order.
fn sort_random(lines: &mut [String]) {
    for part in lines.chunk_by_mut(|a, b| random_group(a).is_some() && random_group(a) == random_group(b)) {
        part.sort_unstable();
    }
}

fn random_group(line: &str) -> Option<&str> {
    let (head, tail) = line.split_once(" in [")?;
    let section = tail.split_once("] section")?.0;
    let random = match section {
        "barman" => head.contains("Invalid configuration option"),
        "m" => head.contains("Ignoring invalid"),
        _ => false,
    };
    random.then_some(section)
}

/// Python prints sets in random order.
fn sort_words(value: &mut Value) {
    if let Some(text) = value.as_str() {
        let mut words: Vec<&str> = text.split(',').collect();
        words.sort_unstable();
        *value = json!(words.join(","));
    }
}

fn with_source(value: Value, source: Option<&barman_core::config::Source>) -> Value {
    json!({ "source": source.map_or("default", |source| source.file.as_str()), "value": value })
}

fn ours(dir: &Utf8Path) -> Understanding {
    let env = LoadEnv { disk: &RealDisk, home: None, cwd: Utf8Path::new("/") };
    let config = match Config::load(&dir.join("barman.conf"), &env) {
        Ok(config) => config,
        Err(error) => return fatal(&error),
    };
    let mut global: Map<String, Value> = config
        .globals
        .shown()
        .into_iter()
        .map(|(name, value, source)| (name, with_source(value.json(), source)))
        .collect();
    global.insert("errors_list".into(), json!(config.conflicts));
    let servers: Map<String, Value> = config
        .servers
        .iter()
        .map(|(name, server)| {
            let mut options: Map<String, Value> = server
                .options()
                .map(|view| (view.name.to_owned(), with_source(view.value.json(), view.written)))
                .collect();
            options.insert("name".into(), with_source(json!(name.as_str()), None));
            let shown = json!({
                "config": options, "msg_list": server.messages, "active_model": server.active_model
            });
            (name.to_string(), shown)
        })
        .collect();
    let models: Map<String, Value> = config
        .models
        .iter()
        .map(|(name, model)| {
            let options: Map<String, Value> = model
                .shown()
                .into_iter()
                .map(|(name, value, source)| (name.to_owned(), with_source(value.json(), source)))
                .collect();
            (name.clone(), json!({ "config": options }))
        })
        .collect();
    let building = config.section_order.iter().flat_map(|name| &config.servers[name].notices);
    let notices: Vec<&Notice> = config.notices.iter().chain(building).collect();
    let prefix = |notice: &Notice| match notice.severity {
        Severity::Warning => "WARNING",
        Severity::Error => "ERROR",
    };
    Understanding {
        console: notices
            .iter()
            .filter(|n| !n.log_only)
            .map(|n| format!("{}: {}", prefix(n), n.text))
            .collect(),
        log: notices.iter().filter(|n| n.log_only).map(|n| n.text.clone()).collect(),
        diagnose: json!({ "global": global, "servers": servers, "models": models }),
    }
}

fn fatal(error: &ConfigError) -> Understanding {
    let console =
        error.lines().iter().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    Understanding { console, log: vec![], diagnose: Value::Null }
}

/// The places in which two values differ.
fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let missing = json!("(missing)");
                let (a, b) = (a.get(key).unwrap_or(&missing), b.get(key).unwrap_or(&missing));
                differences(&format!("{path}/{key}"), a, b, found);
            }
        }
        _ if ours != theirs => found.push(format!("{path}: ours {ours}, theirs {theirs}")),
        _ => {}
    }
}

fn compare(barman: &Barman, case: &Case) -> Vec<String> {
    let (name, text, files) = case;
    let holder = TestDir::new("btk-config-").unwrap();
    let dir = holder.path();
    holder.subdir("home").unwrap();
    let fill = |text: &str| text.replace("GOOD", GOOD).replace('@', dir.as_str());
    let user = Account::for_servers().unwrap().name;
    let head = format!("[barman]\nbarman_home={dir}/home\nbarman_user={user}\nlog_file={dir}/log\n");
    std::fs::write(dir.join("barman.conf"), head + &fill(text)).unwrap();
    for (path, text) in *files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, fill(text)).unwrap();
    }
    Account::for_servers().unwrap().own_tree(dir).unwrap();
    let mut theirs = theirs(barman, dir);
    let mut ours = ours(dir);
    sort_random(&mut theirs.console);
    sort_random(&mut ours.console);
    let mut found = Vec::new();
    for (what, ours, theirs) in [("console", &ours.console, &theirs.console), ("log", &ours.log, &theirs.log)]
    {
        if ours != theirs {
            found.push(format!("{name}: {what}\n  ours   {ours:#?}\n  theirs {theirs:#?}"));
        }
    }
    differences(name, &ours.diagnose, &theirs.diagnose, &mut found);
    found
}

#[test]
fn understood_as_barman_does() {
    let Some(barman) = Barman::require() else { return };
    let (one, other) = CASES.split_at(CASES.len() / 2);
    let found: Vec<String> = std::thread::scope(|scope| {
        let run =
            |half: &'static [Case]| half.iter().flat_map(|case| compare(&barman, case)).collect::<Vec<_>>();
        let second = scope.spawn(move || run(other));
        let mut found = run(one);
        found.extend(second.join().unwrap());
        found
    });
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
