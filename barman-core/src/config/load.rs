//! [`Config::load`]: from the files to servers and models.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;

use camino::{Utf8Path, Utf8PathBuf};

use super::effects::settle;
use super::error::ConfigError;
use super::model::{ACTIVE_MODEL_FILE, ModelConfig};
use super::paths::{conflicts, real_path};
use super::precedence::{find, resolve, unquote};
use super::schema::{GLOBAL_OPTIONS, option_spec};
use super::server::ServerConfig;
use super::types::{At, OptionType};
use super::value::Value;
use crate::format::ini::{IniFile, Item, Merged, Source};
use crate::io::{Disk, IoError, IoErrorKind};
use crate::model::ServerName;

/// The largest file that is read as configuration.
const MAX_FILE: u64 = 16 << 20;

/// What reading the configuration needs of the process.
#[derive(Clone, Copy)]
pub struct LoadEnv<'a> {
    /// The file system.
    pub disk: &'a dyn Disk,
    /// The home directory of the invoking user, for `~` in the path of the configuration and in
    /// `configuration_files_directory`. (Barman expands it nowhere else.)
    pub home: Option<&'a Utf8Path>,
    /// The current directory, for relative paths.
    pub cwd: &'a Utf8Path,
}

/// How serious a [`Notice`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Worth knowing.
    Warning,
    /// Printed as an error: the command goes on, but Barman exits with 1 in the end.
    Error,
}

/// Something to be told while the configuration is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How serious it is.
    pub severity: Severity,
    /// The text without a prefix.
    pub text: String,
    /// Whether it goes to the log only, and not to stderr or `_WARNING` too.
    pub log_only: bool,
}

impl Notice {
    pub(crate) fn warning(text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, text: text.into(), log_only: false }
    }
}

/// The options of `[barman]` that are not options of servers. Paths are as configured: `~` is not expanded, and
/// relative ones are relative to the current directory, as in Barman.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Globals {
    /// The root of the catalogue.
    pub barman_home: Utf8PathBuf,
    /// The user of the operating system to run as.
    pub barman_user: String,
    /// Where lock files lie.
    pub barman_lock_directory: Utf8PathBuf,
    /// Whether `cron` removes locks that nobody holds.
    pub lock_directory_cleanup: bool,
    /// The queue of `config-update`.
    pub config_changes_queue: Utf8PathBuf,
    /// The directory of further files.
    pub configuration_files_directory: Option<Utf8PathBuf>,
    /// The log; stderr if unset.
    pub log_file: Option<Utf8PathBuf>,
    /// The level of the log as configured: a name or a number, perhaps an unknown one.
    pub log_level: Option<String>,
    /// The format of its lines in Python's `logging` syntax.
    pub log_format: Option<String>,
    written: Vec<Item>,
}

impl Globals {
    fn read(items: Vec<Item>) -> Result<Self, ConfigError> {
        let text =
            |name: &str| find(&items, name).map(|item| unquote(&item.value)).filter(|text| !text.is_empty());
        let path = |name: &str| text(name).map(Utf8PathBuf::from);
        let missing =
            || ConfigError::MissingParameter { option: "barman_home", section: "barman".to_owned() };
        let barman_home = path("barman_home").ok_or_else(missing)?;
        let option = "lock_directory_cleanup";
        let at = At { key: option, place: "[barman] section" };
        let cleanup = text(option).map(|text| bool::read(text, at)).transpose();
        let bad = |reason| ConfigError::BadSwitch { option, section: "barman".to_owned(), reason };
        Ok(Self {
            barman_user: text("barman_user").unwrap_or("barman").to_owned(),
            barman_lock_directory: path("barman_lock_directory").unwrap_or_else(|| barman_home.clone()),
            lock_directory_cleanup: cleanup.map_err(bad)?.flatten().unwrap_or(true),
            config_changes_queue: path("config_changes_queue")
                .unwrap_or_else(|| Utf8PathBuf::from(format!("{barman_home}/cfg_changes.queue"))),
            configuration_files_directory: path("configuration_files_directory"),
            log_file: path("log_file"),
            log_level: text("log_level").map(str::to_owned),
            log_format: text("log_format").map(str::to_owned),
            barman_home,
            written: items,
        })
    }

    /// What `diagnose` shows as the global configuration, by name: the keys of `[barman]` as written (quotes
    /// included), and the defaults of those that always have a value.
    pub fn shown(&self) -> Vec<(String, Value, Option<&Source>)> {
        let mut shown: BTreeMap<String, (Value, Option<&Source>)> = BTreeMap::new();
        for (name, value) in [
            ("barman_lock_directory", &self.barman_lock_directory),
            ("config_changes_queue", &self.config_changes_queue),
        ] {
            shown.insert(name.to_owned(), (Value::Text(value.to_string()), None));
        }
        shown.insert("barman_user".to_owned(), (Value::Text(self.barman_user.clone()), None));
        for item in &self.written {
            shown.insert(item.name.clone(), (Value::Text(item.value.clone()), Some(&item.source)));
        }
        // These three are shown as understood, wherever they come from.
        for (name, value) in [
            ("barman_lock_directory", Value::Text(self.barman_lock_directory.to_string())),
            ("config_changes_queue", Value::Text(self.config_changes_queue.to_string())),
            ("lock_directory_cleanup", Value::Bool(self.lock_directory_cleanup)),
        ] {
            let source = shown.get(name).and_then(|(_, source)| *source);
            shown.insert(name.to_owned(), (value, source));
        }
        shown.into_iter().map(|(name, (value, source))| (name, value, source)).collect()
    }
}

/// The whole configuration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The main file, as it was named.
    pub path: Utf8PathBuf,
    /// The options of `[barman]` that concern no server.
    pub globals: Globals,
    /// The servers by name.
    pub servers: BTreeMap<ServerName, ServerConfig>,
    /// The servers in the order of their sections: the order in which Barman builds, and warns about, all of them.
    pub section_order: Vec<ServerName>,
    /// The models by name.
    pub models: BTreeMap<String, ModelConfig>,
    /// What there is to tell of the configuration as a whole, in Barman's order. What there is to tell of single
    /// servers is with them, since Barman tells it only of those that the command concerns.
    pub notices: Vec<Notice>,
    /// Directories that several servers share. Barman then refuses every command on servers with these lines as
    /// errors; `diagnose` lists them as `errors_list`.
    pub conflicts: Vec<String>,
}

impl Config {
    /// Reads the configuration: the main file, the `*.conf` of `configuration_files_directory` in the order of their
    /// paths, and `<barman_home>/.barman.auto.conf`; then each server's file of the active model.
    ///
    /// # Errors
    /// Whatever makes it useless as a whole. What concerns one server only disables that server.
    pub fn load(path: &Utf8Path, env: &LoadEnv<'_>) -> Result<Self, ConfigError> {
        let main = expand_home(path, env);
        let text = read(&main, env)?.ok_or_else(|| ConfigError::NoFile(path.to_owned()))?;
        let mut merged = Merged::default();
        merged.merge(&IniFile::parse(main.as_str(), &text)?)?;
        let barman = merged.items("barman")?.ok_or(ConfigError::NoBarmanSection)?;
        let globals = Globals::read(barman)?;
        let mut notices = Vec::new();
        let before = merged.snapshot("barman");
        for file in further_files(&globals, env, &mut notices)? {
            let Some(text) = read(&file, env)? else { continue };
            merged.merge(&IniFile::parse(file.as_str(), &text)?)?;
            if merged.snapshot("barman") != before {
                let name = file.file_name().unwrap_or(file.as_str()).to_owned();
                return Err(ConfigError::BarmanSectionInInclude(name));
            }
        }
        // Equal values, but a later file may be the one that is named as their source.
        let globals = Globals::read(merged.items("barman")?.unwrap_or_default())?;
        let mut config = Self {
            path: main,
            globals,
            servers: BTreeMap::new(),
            section_order: Vec::new(),
            models: BTreeMap::new(),
            notices,
            conflicts: Vec::new(),
        };
        config.read_sections(&merged)?;
        config.conflicts = conflicts(&mut config.servers, &|path| real_path(env.disk, env.cwd, path));
        for name in config.section_order.clone() {
            let Some(server) = config.servers.get_mut(&name) else { continue };
            let file = env.cwd.join(&server.options.backup_directory).join(ACTIVE_MODEL_FILE);
            let active = match read(&file, env) {
                Ok(text) => text.unwrap_or_default(),
                Err(error) => {
                    let reason =
                        std::error::Error::source(&error).map(|why| format!(": {why}")).unwrap_or_default();
                    let text = format!("The active model of server '{name}' cannot be read: {error}{reason}");
                    server.messages.push(text);
                    String::new()
                }
            };
            activate(server, active.trim(), &config.models, &mut config.notices);
            settle(server);
        }
        Ok(config)
    }

    fn read_sections(&mut self, merged: &Merged) -> Result<(), ConfigError> {
        let barman = merged.items("barman")?.unwrap_or_default();
        unknown_keys("barman", &barman, is_known_globally, &mut self.notices);
        for section in merged.sections().filter(|section| *section != "barman") {
            if section == "all" {
                return Err(ConfigError::ReservedName);
            }
            let items = merged.items(section)?.unwrap_or_default();
            if is_model(section, &items)? {
                let known = |key: &str| key == "model" || ModelConfig::may_set(key);
                unknown_keys(section, &items, known, &mut self.notices);
                let model = ModelConfig::resolve(section, &items, &mut self.notices)?;
                self.models.insert(section.to_owned(), model);
                continue;
            }
            let Ok(name) = section.parse::<ServerName>() else {
                self.notices.push(Notice::warning(format!(
                    "Ignoring section [{section}]: a server's name is a directory name, without '/' and line ends"
                )));
                continue;
            };
            unknown_keys(section, &items, |key| option_spec(key).is_some(), &mut self.notices);
            let home = self.globals.barman_home.as_str();
            let server = resolve(name.clone(), &items, &barman, home, &mut self.notices);
            self.servers.insert(name.clone(), server);
            self.section_order.push(name);
        }
        Ok(())
    }

    /// The server of that name.
    ///
    /// # Errors
    /// [`ConfigError::UnknownServer`], also for the name of a model.
    pub fn server(&self, name: &str) -> Result<&ServerConfig, ConfigError> {
        let found = name.parse::<ServerName>().ok().and_then(|name| self.servers.get(&name));
        found.ok_or_else(|| ConfigError::UnknownServer(name.to_owned()))
    }

    /// The model of that name.
    ///
    /// # Errors
    /// [`ConfigError::UnknownModel`].
    pub fn model(&self, name: &str) -> Result<&ModelConfig, ConfigError> {
        self.models.get(name).ok_or_else(|| ConfigError::UnknownModel(name.to_owned()))
    }
}

/// Applies the model that the server's file names, if it can be.
fn activate(
    server: &mut ServerConfig,
    active: &str,
    models: &BTreeMap<String, ModelConfig>,
    notices: &mut Vec<Notice>,
) {
    if active.is_empty() {
        return;
    }
    let Some(model) = models.get(active) else {
        let name = &server.name;
        server.messages.push(format!(
            "Model '{active}' is set as the active model for the server '{name}' but the model does not exist."
        ));
        return;
    };
    match server.accepts(model) {
        Ok(()) => model.apply(server),
        Err(error) => {
            notices.push(Notice { severity: Severity::Error, text: error.to_string(), log_only: false });
        }
    }
}

fn is_known_globally(key: &str) -> bool {
    option_spec(key).is_some() || GLOBAL_OPTIONS.iter().any(|(name, known)| *name == key && *known)
}

fn unknown_keys(section: &str, items: &[Item], known: impl Fn(&str) -> bool, notices: &mut Vec<Notice>) {
    for item in items.iter().filter(|item| !known(&item.name)) {
        let text = format!("Invalid configuration option \"{}\" in [{section}] section.", item.name);
        notices.push(Notice::warning(text));
    }
}

fn is_model(section: &str, items: &[Item]) -> Result<bool, ConfigError> {
    let Some(item) = find(items, "model") else { return Ok(false) };
    let at = At { key: "model", place: "" };
    let bad = |reason| ConfigError::BadSwitch { option: "model", section: section.to_owned(), reason };
    Ok(bool::read(unquote(&item.value), at).map_err(bad)?.unwrap_or(false))
}

/// `~` and `~/…`; `~user` stays as it is.
fn expand_home(path: &Utf8Path, env: &LoadEnv<'_>) -> Utf8PathBuf {
    match (path.strip_prefix("~"), env.home) {
        (Ok(rest), Some(home)) if rest.as_str().is_empty() => home.to_owned(),
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// The files that are read after the main one, in order.
fn further_files(
    globals: &Globals,
    env: &LoadEnv<'_>,
    notices: &mut Vec<Notice>,
) -> Result<Vec<Utf8PathBuf>, ConfigError> {
    let mut files = Vec::new();
    if let Some(configured) = &globals.configuration_files_directory {
        let dir = expand_home(configured, env);
        let real = env.cwd.join(&dir);
        if env.disk.stat(&real).is_ok_and(|stat| stat.is_dir()) {
            let list = env.disk.list(&real, &mut |item| {
                if item.name.ends_with(".conf") {
                    files.push(dir.join(item.name));
                }
                ControlFlow::Continue(())
            });
            match list {
                // Names that are not UTF-8 are not those of configuration files; the rest was delivered.
                Err(error) if error.kind() != IoErrorKind::NotUtf8 => return Err(error.into()),
                _ => files.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str())),
            }
        } else {
            notices.push(Notice {
                severity: Severity::Warning,
                text: format!(
                    "Ignoring the \"configuration_files_directory\" option as \"{configured}\" is not a directory"
                ),
                log_only: true,
            });
        }
    }
    files.push(globals.barman_home.join(".barman.auto.conf"));
    Ok(files)
}

/// The text of a file; `None` if it does not exist.
fn read(path: &Utf8Path, env: &LoadEnv<'_>) -> Result<Option<String>, ConfigError> {
    let real = env.cwd.join(path);
    let file = match env.disk.open_read(&real) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|source| IoError::new("read", real, source))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
        ConfigError::NotUtf8 { file: path.to_owned(), line }
    })
}
