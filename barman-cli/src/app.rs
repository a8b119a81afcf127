//! What every command works with: configuration, output, and the host as the library sees it.

use std::process::ExitCode;
use std::sync::Arc;

use barman_core::config::{Config, LoadEnv, ServerConfig, Severity};
use barman_core::ctx::{Cancel, Ctx};
use barman_core::io::RealDisk;
use barman_core::pg::Environment;
use barman_core::server::{Host, Server};
use barman_core::transport::SshEnvironment;
use camino::{Utf8Path, Utf8PathBuf};

use crate::args::Arguments;
use crate::clock::ZonedClock;
use crate::error::Failure;
use crate::logfile::{Log, LogLevel};
use crate::output::Output;
use crate::progress::Screen;
use crate::user::become_user;

/// What every command works with.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) output: Arc<Output>,
    pub(crate) host: Host,
    screen: Screen,
}

/// Reads the configuration, becomes the configured user, opens the log.
///
/// # Errors
/// Lines to print as they are; the exit status is 1.
#[allow(clippy::disallowed_methods, reason = "the environment of the process is read here, for the library")]
pub(crate) fn start(arguments: &Arguments) -> Result<App, Vec<String>> {
    let disk = Arc::new(RealDisk);
    let home = std::env::var("HOME").ok().filter(|h| !h.is_empty()).map(Utf8PathBuf::from);
    let cwd = std::env::current_dir().ok().and_then(|d| Utf8PathBuf::from_path_buf(d).ok());
    let cwd = cwd.unwrap_or_else(|| Utf8PathBuf::from("/"));
    let path = find_config(arguments, home.as_deref())?;
    let env = LoadEnv { disk: disk.as_ref(), home: home.as_deref(), cwd: &cwd };
    let config = Config::load(&path, &env).map_err(|e| e.lines())?;
    become_user(&config.globals.barman_user, &config.path).map_err(|line| vec![line])?;
    let clock = Arc::new(ZonedClock::new());
    let level = arguments.log_level.as_deref().or(config.globals.log_level.as_deref()).unwrap_or("INFO");
    let number = LogLevel::number(level);
    let (log, trouble) = Log::open(config.globals.log_file.as_deref(), number.unwrap_or(20));
    let output = Arc::new(Output::new(arguments, log, clock.clone()));
    if let Some(trouble) = trouble {
        output.log_only(LogLevel::Warning, &trouble);
    }
    if number.is_none() {
        output.log_only(LogLevel::Warning, &format!("unknown log_level in config file: {level}"));
    }
    for notice in &config.notices {
        match (notice.log_only, notice.severity) {
            (true, Severity::Warning) => output.log_only(LogLevel::Warning, &notice.text),
            (true, Severity::Error) => output.log_only(LogLevel::Error, &notice.text),
            (false, Severity::Warning) => output.warning(&notice.text),
            (false, Severity::Error) => output.error(&notice.text),
        }
    }
    let user = uzers::get_current_username().and_then(|n| n.into_string().ok());
    let cancel = Cancel::new();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 1, cancel.flag());
        let _ = signal_hook::flag::register(signal, cancel.flag());
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let ssh = SshEnvironment {
        user: user.clone(),
        home: home.clone(),
        agent: variable("SSH_AUTH_SOCK").map(Utf8PathBuf::from),
        path: variable("PATH").map(|p| p.split(':').map(Utf8PathBuf::from).collect()).unwrap_or_default(),
        runtime: Some(variable("TMPDIR").map_or_else(|| "/tmp".into(), Utf8PathBuf::from)),
    };
    let mut environment = Environment::new(std::env::vars());
    if let Some(home) = home {
        environment = environment.with_home(home);
    }
    if let Some(user) = user {
        environment = environment.with_user(user);
    }
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let configuration = config.path.clone();
    let host = Host { disk, clock, environment, ssh, cancel, command, configuration, workers };
    let screen = Screen::new(Arc::clone(&output));
    Ok(App { config, output, host, screen })
}

#[allow(clippy::disallowed_methods, reason = "the environment of the process is read here")]
fn find_config(arguments: &Arguments, home: Option<&Utf8Path>) -> Result<Utf8PathBuf, Vec<String>> {
    let named = arguments.config.clone();
    let from_env =
        || std::env::var("BARMAN_CONFIG_FILE").ok().filter(|f| !f.is_empty()).map(Utf8PathBuf::from);
    if let Some(path) = named.or_else(from_env) {
        return Ok(path);
    }
    let own = home.map(|h| h.join(".barman.conf"));
    let usual = ["/etc/barman.conf", "/etc/barman/barman.conf"].map(Utf8PathBuf::from);
    own.into_iter().chain(usual).find(|p| p.exists()).ok_or_else(|| {
        vec![
            "Could not find any configuration file at default locations.".to_owned(),
            "Check Barman's documentation for more help.".to_owned(),
        ]
    })
}

impl App {
    /// What operations take along.
    pub(crate) fn ctx(&self) -> Ctx<'_> {
        Ctx { clock: self.host.clock.as_ref(), progress: &self.screen, cancel: &self.host.cancel }
    }

    /// The servers that the arguments mean: sorted, each once. `all` means every one. Unknown names are said and left out.
    pub(crate) fn servers(&self, names: &[String]) -> Vec<&ServerConfig> {
        if names.iter().any(|n| n == "all") {
            if names.len() > 1 {
                self.output.error("You cannot use 'all' with other server names");
            }
            return self.config.servers.values().collect();
        }
        let mut wanted: Vec<&String> = names.iter().collect();
        wanted.sort();
        wanted.dedup();
        wanted
            .into_iter()
            .filter_map(|name| match self.config.server(name) {
                Ok(server) => Some(server),
                Err(error) => {
                    self.output.error(&error.to_string());
                    None
                }
            })
            .collect()
    }

    /// Does a command for each of the servers that the arguments mean. One that fails keeps nothing from the others.
    pub(crate) fn each(
        &self,
        names: &[String],
        mut one: impl FnMut(&ServerConfig) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.refuse_conflicts()?;
        for server in self.servers(names) {
            match one(server) {
                Ok(()) => {}
                Err(_) if self.host.cancel.is_cancelled() => return Err(Failure::Said),
                Err(Failure::Error(text) | Failure::Status(text, _)) => self.output.error(&text),
                Err(Failure::Exception(text)) => self.output.exception(&text),
                Err(Failure::Said) => self.output.fail(),
            }
        }
        Ok(())
    }

    /// While servers share directories, no command may touch any of them.
    fn refuse_conflicts(&self) -> Result<(), Failure> {
        self.config.conflicts.iter().for_each(|text| self.output.error(text));
        if self.config.conflicts.is_empty() { Ok(()) } else { Err(Failure::Said) }
    }

    /// The servers that the arguments mean, without a word about unknown names; an error when none is left or when
    /// servers share directories.
    pub(crate) fn known_servers(&self, names: &[String]) -> Result<Vec<&ServerConfig>, Failure> {
        if !self.config.conflicts.is_empty() {
            return Err(Failure::Said);
        }
        let all = names.iter().any(|n| n == "all");
        let wanted = |name: &str| all || names.iter().any(|n| n == name);
        let known: Vec<&ServerConfig> =
            self.config.servers.values().filter(|server| wanted(server.name.as_str())).collect();
        if known.is_empty() && !all { Err(Failure::Said) } else { Ok(known) }
    }

    /// The one server of a command that takes one.
    pub(crate) fn server(&self, name: &str) -> Result<&ServerConfig, Failure> {
        self.refuse_conflicts()?;
        if name == "all" {
            return Err(Failure::Error("You cannot use 'all' in a single server context".to_owned()));
        }
        self.config.server(name).map_err(|e| Failure::Error(e.to_string()))
    }

    /// Says what Barman says each time that it builds this server.
    pub(crate) fn tell_notices(&self, config: &ServerConfig) {
        for notice in &config.notices {
            match notice.severity {
                Severity::Warning if notice.log_only => self.output.log_only(LogLevel::Warning, &notice.text),
                Severity::Warning => self.output.warning(&notice.text),
                Severity::Error => self.output.error(&notice.text),
            }
        }
    }

    /// Puts a server together, with what Barman says of it each time.
    pub(crate) fn open(&self, config: &ServerConfig) -> Result<Server, Failure> {
        self.tell_notices(config);
        Ok(Server::open(config.clone(), &self.config.globals, self.host.clone())?)
    }

    /// Draws what is left to be drawn and gives the exit status.
    pub(crate) fn finish(&self, outcome: Result<(), Failure>) -> ExitCode {
        match outcome {
            Ok(()) => {}
            Err(_) if self.host.cancel.is_cancelled() => {
                self.output.error("Process interrupted by user (KeyboardInterrupt)");
            }
            Err(Failure::Error(text)) => self.output.error(&text),
            Err(Failure::Exception(text)) => self.output.exception(&text),
            Err(Failure::Status(text, status)) => {
                self.output.error(&text);
                self.output.exit_with(status);
            }
            Err(Failure::Said) => self.output.fail(),
        }
        ExitCode::from(self.output.finish())
    }
}
