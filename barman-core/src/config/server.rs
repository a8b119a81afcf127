//! [`ServerConfig`]: one server, as configured.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};

use super::conninfo::redacted;
use super::error::ConfigError;
use super::load::Notice;
use super::schema::{SERVER_OPTIONS, ServerOptions, option_spec};
use super::types::{At, Location};
use super::value::Value;
use crate::format::ini::Source;
use crate::model::ServerName;

/// One server with all rules of precedence applied: its section, `[barman]`, the defaults, the active model.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Its name.
    pub name: ServerName,
    /// Its options.
    pub options: ServerOptions,
    /// The model that is applied.
    pub active_model: Option<String>,
    /// Why the server is disabled, in Barman's words and order: not empty means disabled. (`diagnose` calls it
    /// `msg_list`.)
    pub messages: Vec<String>,
    /// What Barman says each time that it builds this server, beyond what it says of the configuration as a whole.
    pub notices: Vec<Notice>,
    pub(crate) sources: BTreeMap<&'static str, Source>,
    /// Where an option is written first in the order of precedence, whether or not the text there is heeded.
    pub(crate) written: BTreeMap<&'static str, Source>,
    /// The texts of the options that are judged late; `None` is a text that unsets.
    pub(crate) late: BTreeMap<&'static str, Option<String>>,
}

/// An option as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionView<'a> {
    /// Its name.
    pub name: &'static str,
    /// Its value; Display and JSON renderings are Barman's.
    pub value: Value,
    /// Where `diagnose` says that it comes from: the server's section or else `[barman]`, wherever it is written, even
    /// if the text there is refused or not inherited. [`ServerConfig::source`] tells where the value really comes from.
    pub written: Option<&'a Source>,
}

impl ServerConfig {
    /// Where the value of the option was set; `None` for a default or an unknown option.
    pub fn source(&self, option: &str) -> Option<&Source> {
        self.sources.get(option)
    }

    /// All 121 options by name, as `show-servers`, `diagnose` and `sync-info` show them. Passwords are hidden, also
    /// where Barman shows them (the JSON of `show-servers`).
    pub fn options(&self) -> impl Iterator<Item = OptionView<'_>> {
        let mut names: Vec<&'static str> = SERVER_OPTIONS.iter().map(|spec| spec.name).collect();
        names.sort_unstable();
        names.into_iter().filter_map(|name| {
            let value = match self.options.get(name)? {
                Value::Text(text) => Value::Text(redacted(&text)),
                value => value,
            };
            Some(OptionView { name, value, written: self.written.get(name) })
        })
    }

    /// Sets an option for this run, as an option of a command does. What the value makes of the rest of the
    /// configuration is not judged again.
    ///
    /// # Errors
    /// [`ConfigError::BadOverride`] when there is no such option or the text is not a value of it.
    pub fn apply_override(&mut self, option: &str, text: &str) -> Result<(), ConfigError> {
        let at = At { key: option, place: "the command line" };
        self.options.set(text, at).map_err(|reason| ConfigError::BadOverride {
            option: option.to_owned(),
            value: text.to_owned(),
            reason,
        })?;
        if let Some(spec) = option_spec(option) {
            self.sources.remove(spec.name);
        }
        Ok(())
    }

    /// Whether everything is copied from another Barman.
    pub fn is_passive(&self) -> bool {
        self.options.primary_ssh_command.is_some()
    }

    /// Whether the server is looked after (`active`).
    pub fn is_active(&self) -> bool {
        self.options.active
    }

    /// Whether errors in the configuration stop most commands on this server.
    pub fn is_disabled(&self) -> bool {
        self.options.disabled
    }

    /// What `check` and `show-servers` put after the name: ` (inactive)` or ` (WARNING: disabled)`.
    pub fn state_suffix(&self) -> &'static str {
        match (self.is_active(), self.is_disabled()) {
            (false, _) => " (inactive)",
            (true, true) => " (WARNING: disabled)",
            (true, false) => "",
        }
    }

    /// What `list-servers` puts after the name: as [`ServerConfig::state_suffix`], with ` (Passive)` after it or alone.
    pub fn suffix(&self) -> &'static str {
        match (self.is_active(), self.is_disabled(), self.is_passive()) {
            (false, _, false) => " (inactive)",
            (false, _, true) => " (inactive) (Passive)",
            (true, true, false) => " (WARNING: disabled)",
            (true, true, true) => " (WARNING: disabled) (Passive)",
            (true, false, true) => " (Passive)",
            (true, false, false) => "",
        }
    }

    /// `<backup_directory>/meta`.
    pub fn meta_directory(&self) -> Utf8PathBuf {
        self.options.backup_directory.join("meta")
    }

    /// The directory of `<name>-xlog.db`: `xlogdb_directory`, or `meta` where that follows `wals_directory` into the
    /// cloud.
    pub fn xlogdb_directory(&self) -> Utf8PathBuf {
        self.options.xlogdb_directory.local().map_or_else(|| self.meta_directory(), Utf8Path::to_owned)
    }

    /// The directories that `check` and `backup` create where they are missing, with the names of their options
    /// (`meta` has none), in the order of these names.
    pub fn directories(&self) -> Vec<(&'static str, Utf8PathBuf)> {
        let options = &self.options;
        let mut all = vec![("backup_directory", options.backup_directory.clone())];
        all.extend(local("basebackups_directory", &options.basebackups_directory));
        all.push(("errors_directory", options.errors_directory.clone()));
        all.push(("incoming_wals_directory", options.incoming_wals_directory.clone()));
        all.push(("meta_directory", self.meta_directory()));
        all.push(("streaming_wals_directory", options.streaming_wals_directory.clone()));
        all.extend(local("wals_directory", &options.wals_directory));
        all
    }

    /// What is wrong with `retention_policy`, if it is set to what is no policy.
    pub fn invalid_retention_policy(&self) -> Option<&str> {
        match &self.options.retention_policy {
            Some(super::late::Retention::Invalid(text)) => Some(text),
            _ => None,
        }
    }

    /// The policy that is enforced.
    pub fn retention_policy(&self) -> Option<crate::model::RetentionPolicy> {
        match self.options.retention_policy {
            Some(super::late::Retention::Policy(policy)) => Some(policy),
            _ => None,
        }
    }
}

fn local(name: &'static str, location: &Location) -> Option<(&'static str, Utf8PathBuf)> {
    location.local().map(|path| (name, path.to_owned()))
}
