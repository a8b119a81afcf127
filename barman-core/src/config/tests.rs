//! The room as a whole on real files: every sentence of the reference, each precedence, each state of a server. (The
//! comparison with Barman itself is in `tests/config_barman.rs`; these need nothing but a directory.)

use camino::{Utf8Path, Utf8PathBuf};

use super::*;
use crate::io::RealDisk;

/// What every good server of the tests has.
const GOOD: &str =
    "conninfo=host=/nowhere\nssh_command=false\narchiver=on\nbackup_options=concurrent_backup\n";

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new(files: &[(&str, &str)]) -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        for (path, text) in files {
            home.put(path, text);
        }
        home
    }

    fn path(&self) -> &Utf8Path {
        Utf8Path::from_path(self.dir.path()).unwrap()
    }

    #[allow(clippy::disallowed_methods, reason = "a test prepares its files")]
    fn put(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = text.replace('@', self.path().as_str()).replace("GOOD", GOOD);
        std::fs::write(path, text).unwrap();
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let env = LoadEnv { disk: &RealDisk, home: Some(self.path()), cwd: self.path() };
        Config::load(Utf8Path::new("barman.conf"), &env)
    }
}

/// A configuration of which only the servers matter.
fn config(sections: &str) -> Config {
    let text = format!("[barman]\nbarman_home=@/home\n{sections}");
    Home::new(&[("barman.conf", &text)]).load().unwrap()
}

fn server(options: &str) -> ServerConfig {
    config(&format!("[x]\nGOOD{options}\n")).server("x").unwrap().clone()
}

fn texts(notices: &[Notice]) -> Vec<&str> {
    notices.iter().map(|notice| notice.text.as_str()).collect()
}

#[test]
fn the_table_is_complete() {
    assert_eq!(SERVER_OPTIONS.len(), 121);
    let mut names: Vec<_> = SERVER_OPTIONS.iter().map(|spec| spec.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 121);
    let count = |test: fn(&OptionSpec) -> bool| SERVER_OPTIONS.iter().filter(|spec| test(spec)).count();
    assert_eq!(
        count(|spec| !spec.in_models),
        7 + 20,
        "seven directories and twenty hooks are not for models"
    );
    assert!(SERVER_OPTIONS.iter().all(|spec| !spec.doc.is_empty()));
    // Every default is a value of its option.
    assert_eq!(texts(&config("[x]\n").notices), Vec::<&str>::new());
}

#[test]
fn refused_values() {
    let boolean = "Invalid boolean representation (must be one in: true|t|yes|1|on | false|f|no|0|off)";
    for (key, value, reason) in [
        ("active", "maybe", boolean),
        ("archiver_batch_size", "abc", "invalid literal for int() with base 10: 'abc'"),
        ("parallel_jobs", "1.5", "invalid literal for int() with base 10: '1.5'"),
        (
            "compression",
            "BOGUS",
            "Invalid value: 'bogus' (must be one in: gzip, bzip2, pygzip, pybzip2, pigz, xz, zstd, lz4, snappy, custom)",
        ),
        (
            "compression_level",
            "1.5",
            "Invalid value: '1.5' (must be one in [low, medium, high] or an acceptable integer)",
        ),
        ("reuse_backup", "yes", "Invalid value (use 'copy', 'link' or 'off')"),
        (
            "slot_name",
            "a-b",
            "Replication slot names may only contain lower case letters, numbers, and the underscore character.",
        ),
        ("staging_path", "rel", "Invalid value : 'rel' (must be an absolute path)"),
        ("local_staging_path", "rel", "Invalid value : 'rel' (must be an absolute path)"),
        (
            "backup_method",
            "ftp",
            "Invalid value (must be one in: 'rsync', 'postgres', 'local-rsync', 'snapshot', 'local-to-cloud')",
        ),
        ("backup_compression", "xz", "Invalid value 'xz'(must be one in: ['gzip', 'lz4', 'zstd', 'none'])"),
        ("backup_compression_format", "zip", "Invalid value (must be either `plain` or `tar`)"),
        ("backup_compression_location", "x", "Invalid value (must be either `client` or `server`)"),
        ("staging_location", "REMOTE", "Invalid value: REMOTE (options are: local, remote)"),
        ("combine_mode", "Move", "Invalid value: move (options are: copy, link, clone, copy-file-range)"),
        ("encryption", "AES", "Invalid encryption value 'aes'. Allowed values are: none, gpg."),
        ("create_slot", "x", "Invalid value (use 'manual' or 'auto')"),
        (
            "wals_directory",
            "https://foo/x",
            "The URL is not compatible with any of the supported cloud providers",
        ),
        ("aws_encryption", "aes256", "Invalid value 'aes256' (must be one in: ['AES256', 'aws:kms'])"),
        ("last_backup_minimum_size", "1K", "Invalid value for a number 1K"),
        ("last_wal_maximum_age", "3 fortnights", "Invalid value for a time interval 3 fortnights"),
        ("snapshot_disks", "a,,b", "['a', '', 'b']"),
        (
            "backup_options",
            "FOO",
            "Invalid configuration value 'foo' for key backup_options in [x] section: Unknown option",
        ),
        (
            "backup_options",
            "concurrent_backup,exclusive_backup",
            "Invalid configuration value 'exclusive_backup' for key backup_options in [x] section: cannot contain both \
             'exclusive_backup' and 'concurrent_backup'.Configuration directive ignored.",
        ),
    ] {
        let config = config(&format!("[x]\nGOOD{key}={value}\n"));
        let expected =
            format!("Ignoring invalid configuration value '{value}' for key {key} in [x] section: {reason}");
        assert_eq!(texts(&config.notices), [expected]);
        let default = server("").options.get(key).unwrap();
        let mut refused = config.server("x").unwrap().options.get(key).unwrap();
        if let Value::Text(text) = &mut refused
            && let Some(at) = text.find("/home/")
        {
            assert!(default.to_string().ends_with(&text[at..]), "{key}");
        } else {
            assert_eq!(refused, default, "{key}");
        }
    }
}

#[test]
fn cloud_locations() {
    for (text, cloud) in [
        ("s3://bucket", true),
        ("s3://bucket/prefix", true),
        ("gs://bucket/p", true),
        ("https://console.cloud.google.com/storage/browser/bucket/p", true),
        ("https://account.blob.core.windows.net/container/p", true),
        ("/local/path", false),
    ] {
        let location = server(&format!("wals_directory={text}")).options.wals_directory;
        assert_eq!(location.local().is_none(), cloud, "{text}");
        assert_eq!(location.as_str(), text);
    }
    let cloud = server("wals_directory=s3://b/p");
    assert_eq!(cloud.xlogdb_directory(), cloud.meta_directory());
    assert!(!cloud.directories().iter().any(|(name, _)| *name == "wals_directory"));
}

#[test]
fn precedence_and_sources() {
    let home = Home::new(&[
        (
            "barman.conf",
            "[barman]\nbarman_home=@/home\nconfiguration_files_directory=~/d\nparallel_jobs=2\ncheck_timeout=5\n\
             keepalive_interval=7\n[x]\nGOODparallel_jobs=3\ncheck_timeout=bad\n",
        ),
        ("d/b.conf", "[x]\narchiver_batch_size=9\n"),
        ("d/a.conf", "[x]\narchiver_batch_size=8\ndescription=a\n"),
        ("d/.c.conf.swp", "not read"),
        ("home/.barman.auto.conf", "\n[x]\n\ndescription=auto\n"),
    ]);
    let config = home.load().unwrap();
    let server = config.server("x").unwrap();
    let from = |option: &str| {
        let Source { file, line } = server.source(option)?;
        Some(format!("{}:{line}", file.replace(home.path().as_str(), "@")))
    };
    assert_eq!(server.options.parallel_jobs, 3);
    assert_eq!(from("parallel_jobs").unwrap(), "barman.conf:12");
    assert_eq!((server.options.check_timeout, from("check_timeout").as_deref()), (5, Some("barman.conf:5")));
    assert_eq!((server.options.keepalive_interval, from("keepalive_interval")), (60, None));
    assert_eq!(
        (server.options.archiver_batch_size, from("archiver_batch_size").unwrap()),
        (9, "@/d/b.conf:2".into())
    );
    assert_eq!(from("description").unwrap(), "@/home/.barman.auto.conf:4");
    assert_eq!(server.options.streaming_conninfo.as_deref(), Some("host=/nowhere"));
    assert_eq!(server.options.backup_directory, home.path().join("home/x"));
    assert_eq!(server.options.wals_directory.local(), Some(home.path().join("home/x/wals").as_path()));
    assert_eq!(server.options().count(), 121);
}

#[test]
fn what_stops_everything() {
    let head = "[barman]\nbarman_home=@/home\n";
    for (text, lines) in [
        (
            "x=1\n",
            "EXCEPTION: File contains no section headers.\nfile: 'barman.conf', line: 1\n'x=1\\n'\nSee log file for more details.",
        ),
        (
            "[barman]\nfoo\n",
            "EXCEPTION: Source contains parsing errors: 'barman.conf'\n\t[line  2]: 'foo\\n'\nSee log file for more details.",
        ),
        ("[x]\n", "EXCEPTION: No section: 'barman'\nSee log file for more details."),
        (
            "[barman]\nbarman_user=x\n",
            "ERROR: Parameter \"barman_home\" is required in [barman] section.\nYour configuration is missing required parameters. Exiting.",
        ),
        (
            "HEAD[m]\nmodel=on\n",
            "ERROR: Parameter \"cluster\" is required in [m] section.\nYour configuration is missing required parameters. Exiting.",
        ),
        ("HEAD[all]\n", "FATAL: the reserved word 'all' is not allowed as server name.Please rename it."),
        (
            "HEAD[x]\na=%\n",
            "EXCEPTION: '%' must be followed by '%' or '(', found: '%'\nSee log file for more details.",
        ),
        (
            "HEAD[x]\na=%%\n",
            "EXCEPTION: invalid interpolation syntax in '%' at position 0\nSee log file for more details.",
        ),
        (
            "HEAD[x]\na=%(name)s\n",
            "EXCEPTION: Bad value substitution: option 'a' in section 'x' contains an interpolation key 'name' which is not a valid option name. Raw value: '%(name)s'\nSee log file for more details.",
        ),
        (
            "HEADconfiguration_files_directory=@/d\n",
            "FATAL: the configuration file a.conf contains a not empty [barman] section",
        ),
        (
            "HEADconninfo=%(x)s\n[x]\npassword=secret\n",
            "EXCEPTION: Bad value substitution: option 'conninfo' in section 'barman' contains an interpolation key 'x' which is not a valid option name. Raw value: '%(x)s'\nSee log file for more details.",
        ),
    ] {
        let home =
            Home::new(&[("barman.conf", &text.replace("HEAD", head)), ("d/a.conf", "[barman]\nfoo=1\n")]);
        assert_eq!(home.load().unwrap_err().lines().join("\n"), lines);
    }
    let missing = Home::new(&[]).load().unwrap_err();
    assert_eq!(missing.lines(), ["Configuration file 'barman.conf' does not exist"]);
    let secret = Home::new(&[("barman.conf", "[x]\nconninfo\n password=secret\n")]).load().unwrap_err();
    assert!(!secret.lines().concat().contains("secret"), "{:?}", secret.lines());
}

#[test]
fn bytes_that_are_no_text() {
    let home = Home::new(&[]);
    #[allow(clippy::disallowed_methods, reason = "a test prepares its files")]
    std::fs::write(home.path().join("barman.conf"), b"[barman]\na=\xff\n").unwrap();
    assert_eq!(
        home.load().unwrap_err().to_string(),
        "The configuration file 'barman.conf' is not UTF-8 text (line 2)"
    );
}

#[test]
fn disabled_servers() {
    for (options, messages) in [
        ("", vec![]),
        ("conninfo=", vec!["PostgreSQL connection: Missing 'conninfo' parameter for server 'x'"]),
        (
            "conninfo=a password=b",
            vec![
                "PostgreSQL connection: Cannot connect to postgres: \"a password=*REDACTED*\" is not a valid connection string",
            ],
        ),
        // Barman takes neither of these.
        ("conninfo=postgresql://a@b/c", vec![]),
        ("conninfo=host=a password='x y'", vec![]),
        (
            "streaming_archiver=on\nstreaming_conninfo=",
            vec!["Streaming connection: Missing 'streaming_conninfo' parameter for server 'x'"],
        ),
        (
            "archiver=off\nstreaming_archiver=on",
            vec![
                "Streaming-only archiver requires 'streaming_conninfo' and 'slot_name' options to be properly configured",
            ],
        ),
        ("ssh_command=", vec!["Missing or invalid ssh_command in barman configuration for server x"]),
        (
            "backup_method=local-rsync",
            vec!["Local copy requires ssh_command in barman configuration to be empty for server x"],
        ),
        (
            "backup_compression=gzip",
            vec!["backup_compression option is not supported by rsync backup_method"],
        ),
        (
            "backup_method=postgres\ntablespace_bandwidth_limit=a:1\nreuse_backup=link\nnetwork_compression=on",
            vec![
                "tablespace_bandwidth_limit option is not supported by postgres backup_method",
                "reuse_backup option is not supported by postgres backup_method",
                "network_compression option is not supported by postgres backup_method",
            ],
        ),
        (
            "backup_method=snapshot\nsnapshot_disks=a\nsnapshot_provider=aws\nbandwidth_limit=1",
            vec![
                "bandwidth_limit option is not supported by snapshot backup_method",
                "snapshot_instance option is required by snapshot backup_method",
            ],
        ),
        (
            "wals_directory=/x\nerrors_directory=/x",
            vec!["Conflicting path: wals_directory=/x conflicts with 'errors_directory' for server 'x'"],
        ),
        ("active=no\nconninfo=\nssh_command=", vec![]),
        ("primary_ssh_command=ssh b\nconninfo=\nssh_command=", vec![]),
    ] {
        let server = server(options);
        assert_eq!(server.messages, messages, "{options}");
        assert_eq!(server.is_disabled(), !messages.is_empty());
    }
}

#[test]
fn links_between_directories() {
    let home = Home::new(&[
        ("real/keep", ""),
        (
            "barman.conf",
            "[barman]\nbarman_home=@/home\n[x]\nGOODwals_directory=@/link/../link/w\nerrors_directory=@/real/w\n[y]\nGOODbackup_directory=@/home/x/.\n",
        ),
    ]);
    std::os::unix::fs::symlink("real", home.path().join("link")).unwrap();
    let config = home.load().unwrap();
    let at = home.path().canonicalize_utf8().unwrap();
    assert_eq!(
        config.server("x").unwrap().messages,
        [format!(
            "Conflicting path: wals_directory={at}/link/../link/w (symlink to: {at}/real/w) conflicts with 'errors_directory' for server 'x'"
        )]
    );
    assert_eq!(
        config.conflicts[0],
        format!(
            "Conflicting path: backup_directory={at}/home/x/. (symlink to: {at}/home/x) for server 'y' conflicts with 'backup_directory' for server 'x'"
        )
    );
}

#[test]
fn states() {
    for (options, suffix) in [
        ("", ""),
        ("active=no", " (inactive)"),
        ("active=no\nprimary_ssh_command=x", " (inactive) (Passive)"),
        ("primary_ssh_command=x", " (Passive)"),
        ("conninfo=", " (WARNING: disabled)"),
        ("primary_ssh_command=x\nwals_directory=/x\nerrors_directory=/x", " (WARNING: disabled) (Passive)"),
        ("active=no\nwals_directory=/x\nerrors_directory=/x", " (inactive)"),
    ] {
        assert_eq!(server(options).suffix(), suffix, "{options}");
    }
}

#[test]
fn forced_values() {
    let bare = config("[x]\nconninfo=host=a\nssh_command=b\n");
    let bare = bare.server("x").unwrap();
    assert_eq!(
        texts(&bare.notices),
        [
            "No backup strategy set for server 'x' (using default 'concurrent_backup').",
            "No archiver enabled for server 'x'. Please turn on 'archiver', 'streaming_archiver' or both",
            "Forcing 'archiver = on'",
        ]
    );
    assert!(bare.options.archiver && bare.options.backup_options.concurrent_backup);
    let late = server("retention_policy=TWO\nminimum_redundancy=-1\nbandwidth_limit=z");
    assert!(late.notices.iter().all(|notice| notice.log_only));
    assert_eq!(late.invalid_retention_policy(), Some("TWO"));
    assert_eq!((late.retention_policy(), late.options.minimum_redundancy.0), (None, 0));
    let good = server("retention_policy=recovery window of 7 days");
    assert_eq!(good.retention_policy().unwrap().to_string(), "RECOVERY WINDOW OF 7 DAYS");
    assert_eq!(good.options.get("wal_retention_policy").unwrap().to_string(), "MAIN");
}

#[test]
fn models_and_switching() {
    let text = "[barman]\nbarman_home=@/home\n[x]\nGOODcompression=gzip\n[m1]\nmodel=true\ncluster=x\ncompression=bzip2\n\
                archiver=on\n[m2]\nmodel=true\ncluster=other\n[y]\nGOOD";
    let home = Home::new(&[("barman.conf", text), ("home/y/.active-model.auto", "gone")]);
    let config = home.load().unwrap();
    let x = config.server("x").unwrap();
    let switch = x.switch_to(config.model("m1").unwrap()).unwrap();
    assert_eq!(
        switch.lines(),
        [
            "Applying model 'm1' to server 'x'",
            "Changing value of option 'compression' for server 'x' from 'gzip' to 'bzip2' through the model 'm1'",
        ]
    );
    let other = x.switch_to(config.model("m2").unwrap()).unwrap_err();
    assert_eq!(
        other.lines(),
        ["ERROR: Model 'm2' has 'cluster=other', which is not compatible with 'cluster=x' from server 'x'"]
    );
    assert_eq!(config.model("x").unwrap_err().lines(), ["ERROR: Unknown model 'x'"]);
    assert_eq!(config.server("m1").unwrap_err().lines(), ["ERROR: Unknown server 'm1'"]);
    assert_eq!(x.switch_off().lines(), ["Resetting the active model for the server x"]);
    assert_eq!(
        config.server("y").unwrap().messages,
        ["Model 'gone' is set as the active model for the server 'y' but the model does not exist."]
    );

    home.put("home/x/.active-model.auto", "m1");
    home.put("home/y/.active-model.auto", "m2\n");
    let config = home.load().unwrap();
    let x = config.server("x").unwrap();
    assert_eq!(x.options.compression, Some(WalCompression::Bzip2));
    assert_eq!(x.active_model.as_deref(), Some("m1"));
    assert_eq!(x.source("compression").unwrap().line, 12);
    let again = x.switch_to(config.model("m1").unwrap()).unwrap();
    assert_eq!(again.lines(), ["Model 'm1' is already active for server 'x', skipping..."]);
    let mismatch = config.notices.iter().find(|notice| notice.severity == Severity::Error).unwrap();
    assert!(mismatch.text.starts_with("Model 'm2' has 'cluster=other'"), "{}", mismatch.text);
    assert_eq!(config.server("y").unwrap().active_model, None);
}

#[test]
fn an_active_model_that_cannot_be_read() {
    let home = Home::new(&[
        ("barman.conf", "[barman]\nbarman_home=@/home\n[x]\nGOOD"),
        ("home/x/.active-model.auto/f", ""),
    ]);
    let config = home.load().unwrap();
    let x = config.server("x").unwrap();
    assert!(x.is_disabled() && x.messages[0].starts_with("The active model of server 'x' cannot be read: "));
    assert!(x.messages[0].contains(".active-model.auto: "), "{}", x.messages[0]);
}

#[test]
fn sections_that_cannot_be_servers() {
    let config = config("[a/b]\nGOOD[..]\nGOOD[good]\nGOOD");
    assert_eq!(config.section_order.len(), 1);
    assert_eq!(config.notices.len(), 2);
    assert!(config.notices[0].text.starts_with("Ignoring section [a/b]: "));
    assert!(config.server("a/b").is_err());
}

#[test]
fn options_of_a_command() {
    let mut server = server("parallel_jobs=3");
    server.apply_override("parallel_jobs", "5").unwrap();
    assert_eq!((server.options.parallel_jobs, server.source("parallel_jobs")), (5, None));
    let error = server.apply_override("reuse_backup", "maybe").unwrap_err();
    assert_eq!(
        error.to_string(),
        "Invalid value 'maybe' for option reuse_backup: Invalid value (use 'copy', 'link' or 'off')"
    );
    assert!(server.apply_override("no_such_option", "1").is_err());
}

#[test]
fn nothing_is_ignored_in_silence() {
    use Operation::{Archive, Backup, Delete, Look, Receive, Restore, Sync};
    for (options, first_word, stopped) in [
        ("backup_method=snapshot", "backup_method", vec![Backup]),
        ("backup_method=local-to-cloud", "backup_method", vec![Backup]),
        ("basebackups_directory=s3://b/p", "basebackups_directory", vec![Backup, Delete]),
        ("wals_directory=gs://b/p", "wals_directory", vec![Backup, Archive, Delete, Receive]),
        ("encryption=gpg", "Encryption is set as gpg, but encryption_key_id is unset", vec![Archive]),
        ("primary_ssh_command=ssh b", "primary_ssh_command", vec![Sync]),
    ] {
        let server = server(options);
        for operation in [Backup, Archive, Delete, Restore, Receive, Sync, Look] {
            let said = refusals(&server, operation);
            let stops = operation.stops() && !said.is_empty();
            assert_eq!(stops, stopped.contains(&operation), "{options}: {operation:?}: {said:?}");
            assert!(said.iter().all(|text| text.starts_with(first_word)), "{said:?}");
        }
        assert_eq!(refusals(&server, Look).len(), 1, "{options}");
    }
    let plain =
        server("reuse_backup=link\ncompression=gzip\nretention_policy=REDUNDANCY 1\npre_backup_script=x");
    assert_eq!(refusals(&plain, Look), Vec::<String>::new());
    let exclusive = server("backup_options=exclusive_backup");
    assert_eq!(
        remarks(&exclusive, Backup),
        ["exclusive_backup of server 'x' is carried out as a concurrent backup"]
    );
}

#[test]
fn passwords_stay_inside() {
    let server = server("conninfo=host=a password=topsecret\nstreaming_conninfo=password = 'topsecret too'");
    let shown: String =
        server.options().map(|view| format!("{} {}\n", view.value, view.value.show_json())).collect();
    assert!(!format!("{shown}{server:?}").contains("topsecret"));
    assert_eq!(server.options.conninfo.as_deref(), Some("host=a password=topsecret"));
}

#[test]
fn globals() {
    let globals = config("").globals;
    let under = |name: &str| Utf8PathBuf::from(format!("{}/{name}", globals.barman_home));
    assert_eq!(globals.barman_lock_directory, globals.barman_home);
    assert_eq!(globals.config_changes_queue, under("cfg_changes.queue"));
    assert_eq!(globals.barman_user, "barman");
    assert!(globals.lock_directory_cleanup);
    assert_eq!((globals.log_file, globals.log_level), (None, None));
}
