//! [`ModelConfig`]: a named set of options that can be put over a server's own, and the switch from one to another.

use std::collections::BTreeMap;

use super::conninfo::redacted;
use super::error::ConfigError;
use super::late::LATE;
use super::load::Notice;
use super::precedence::{find, ignored, note, unquote};
use super::schema::{OptionSpec, SERVER_OPTIONS, ServerOptions, option_spec};
use super::server::ServerConfig;
use super::types::At;
use super::value::Value;
use crate::format::ini::{Item, Source};

/// The file in `backup_directory` that holds the name of the active model, without a line end.
pub const ACTIVE_MODEL_FILE: &str = ".active-model.auto";

/// A model. It has only what its section sets: neither defaults nor values of `[barman]`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The name of its section.
    pub name: String,
    /// The cluster of the servers that it can be put over.
    pub cluster: String,
    /// Where it says that it is a model.
    pub source: Source,
    settings: Vec<Setting>,
    /// Every option that is written, heeded or not.
    written: BTreeMap<&'static str, Source>,
}

#[derive(Debug, Clone)]
struct Setting {
    spec: &'static OptionSpec,
    text: String,
    value: Value,
    source: Source,
}

impl Setting {
    /// Whether the server has another value. Options that are judged late are texts here and typed there.
    fn differs(&self, server: &ServerConfig) -> bool {
        server.options.get(self.spec.name).is_none_or(|value| value.to_string() != self.value.to_string())
    }
}

impl ModelConfig {
    pub(crate) fn resolve(
        name: &str,
        section: &[Item],
        notices: &mut Vec<Notice>,
    ) -> Result<Self, ConfigError> {
        let missing = || ConfigError::MissingParameter { option: "cluster", section: name.to_owned() };
        let cluster =
            find(section, "cluster").map(|item| unquote(&item.value)).filter(|text| !text.is_empty());
        let cluster = cluster.ok_or_else(missing)?.to_owned();
        let place = format!("[{name}] section");
        let mut scratch = ServerOptions::blank();
        let mut settings = Vec::new();
        let mut written = BTreeMap::new();
        for spec in SERVER_OPTIONS.iter().filter(|spec| spec.in_models) {
            let Some(item) = find(section, spec.name) else { continue };
            written.insert(spec.name, item.source.clone());
            let text = unquote(&item.value);
            let at = At { key: spec.name, place: &place };
            match scratch.set(text, at) {
                Err(reason) => notices.push(ignored(text, at, &reason)),
                // "Not set" in a model leaves the server's value alone.
                Ok(()) if text.is_empty() && spec.empty_unsets => {}
                Ok(()) => {
                    let late = LATE.contains(&spec.name).then(|| Value::Text(text.to_owned()));
                    let value = late.or_else(|| scratch.get(spec.name)).unwrap_or(Value::None);
                    if value != Value::None {
                        settings.push(Setting {
                            spec,
                            text: text.to_owned(),
                            value,
                            source: item.source.clone(),
                        });
                    }
                }
            }
        }
        let nowhere = || Source { file: String::new(), line: 0 };
        let source = find(section, "model").map_or_else(nowhere, |item| item.source.clone());
        Ok(Self { name: name.to_owned(), cluster, source, settings, written })
    }

    /// The options that the model sets, with their values, in the order of the table.
    pub fn options(&self) -> impl Iterator<Item = (&'static str, &Value, &Source)> {
        self.settings.iter().map(|setting| (setting.spec.name, &setting.value, &setting.source))
    }

    /// What `diagnose` shows of the model, by name: every option that a model can have, set or not, and `model` itself,
    /// with the places where they are written, even if the text there is refused.
    pub fn shown(&self) -> Vec<(&'static str, Value, Option<&Source>)> {
        let mut shown: Vec<_> = SERVER_OPTIONS
            .iter()
            .filter(|spec| spec.in_models)
            .map(|spec| {
                let value = match self.get(spec.name) {
                    None => Value::None,
                    Some(Value::Text(text)) => Value::Text(redacted(text)),
                    Some(value) => value.clone(),
                };
                (spec.name, value, self.written.get(spec.name))
            })
            .collect();
        shown.push(("model", Value::Bool(true), Some(&self.source)));
        shown.sort_unstable_by_key(|(name, ..)| *name);
        shown
    }

    /// The value that the model gives an option.
    pub fn get(&self, option: &str) -> Option<&Value> {
        self.settings.iter().find(|setting| setting.spec.name == option).map(|setting| &setting.value)
    }

    /// Whether the model may set the option at all.
    pub fn may_set(option: &str) -> bool {
        option_spec(option).is_some_and(|spec| spec.in_models)
    }

    fn changes(&self, server: &ServerConfig) -> Vec<Change> {
        let change = |setting: &Setting| {
            let from = server.options.get(setting.spec.name).unwrap_or(Value::None);
            Change { option: setting.spec.name, from, to: setting.value.clone() }
        };
        self.settings.iter().filter(|setting| setting.differs(server)).map(change).collect()
    }

    pub(crate) fn apply(&self, server: &mut ServerConfig) {
        for setting in &self.settings {
            if !setting.differs(server) {
                continue;
            }
            let at = At { key: setting.spec.name, place: "the model" };
            // The text was read once without complaint.
            if server.options.set(&setting.text, at).is_ok() {
                note(server, setting.spec, &setting.text, Some(&setting.source));
            }
        }
        server.active_model = Some(self.name.clone());
    }
}

/// An option that a model changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The option.
    pub option: &'static str,
    /// Its value before.
    pub from: Value,
    /// Its value under the model.
    pub to: Value,
}

/// What `config-switch` has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    /// Nothing: the model is active already.
    AlreadyActive {
        /// The model.
        model: String,
        /// The server.
        server: String,
    },
    /// Write the model's name into [`ACTIVE_MODEL_FILE`].
    Apply {
        /// The model.
        model: String,
        /// The server.
        server: String,
        /// What it changes.
        changes: Vec<Change>,
    },
    /// Remove [`ACTIVE_MODEL_FILE`].
    Reset {
        /// The server.
        server: String,
    },
}

impl Switch {
    /// The lines that Barman prints.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::AlreadyActive { model, server } => {
                vec![format!("Model '{model}' is already active for server '{server}', skipping...")]
            }
            Self::Apply { model, server, changes } => {
                let mut lines = vec![format!("Applying model '{model}' to server '{server}'")];
                lines.extend(changes.iter().map(|Change { option, from, to }| {
                    format!(
                        "Changing value of option '{option}' for server '{server}' from '{}' to '{}' through the model '{model}'",
                        redacted(&from.to_string()),
                        redacted(&to.to_string()),
                    )
                }));
                lines
            }
            Self::Reset { server } => vec![format!("Resetting the active model for the server {server}")],
        }
    }
}

impl ServerConfig {
    /// What it takes to make `model` the active one.
    ///
    /// # Errors
    /// [`ConfigError::OtherCluster`] when the model is for another cluster.
    pub fn switch_to(&self, model: &ModelConfig) -> Result<Switch, ConfigError> {
        let (name, server) = (model.name.clone(), self.name.to_string());
        self.accepts(model)?;
        if self.active_model.as_ref() == Some(&name) {
            return Ok(Switch::AlreadyActive { model: name, server });
        }
        Ok(Switch::Apply { model: name, server, changes: model.changes(self) })
    }

    /// What it takes to have no active model.
    pub fn switch_off(&self) -> Switch {
        Switch::Reset { server: self.name.to_string() }
    }

    pub(crate) fn accepts(&self, model: &ModelConfig) -> Result<(), ConfigError> {
        let cluster = self.options.cluster.clone().unwrap_or_else(|| "None".to_owned());
        if model.cluster == cluster {
            return Ok(());
        }
        Err(ConfigError::OtherCluster {
            model: model.name.clone(),
            model_cluster: model.cluster.clone(),
            server: self.name.to_string(),
            cluster,
        })
    }
}
