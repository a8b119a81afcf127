//! [`ConfigError`]: why there is no configuration to work with.

use camino::Utf8PathBuf;

use super::conninfo::redacted;
use crate::format::ini::IniError;
use crate::io::IoError;

/// Trouble with the configuration that stops every command. Display is Barman's sentence without its prefix; the
/// lines as Barman prints them are [`lines`](ConfigError::lines).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file that was asked for is not there.
    #[error("Configuration file '{0}' does not exist")]
    NoFile(Utf8PathBuf),
    /// A file or directory cannot be read.
    #[error(transparent)]
    Read(#[from] IoError),
    /// A file is so large that it cannot be a configuration.
    #[error("The configuration file '{0}' is larger than 16 MiB")]
    TooLarge(Utf8PathBuf),
    /// A file is not UTF-8 text.
    #[error("The configuration file '{file}' is not UTF-8 text (line {line})")]
    NotUtf8 {
        /// The file.
        file: Utf8PathBuf,
        /// The first line that is not.
        line: usize,
    },
    /// A file is not in the INI dialect, or a reference in it cannot be resolved.
    #[error("{0}")]
    Ini(IniError),
    /// There is no `[barman]` section.
    #[error("No section: 'barman'")]
    NoBarmanSection,
    /// A section lacks what it must have.
    #[error("Parameter \"{option}\" is required in [{section}] section.")]
    MissingParameter {
        /// The option.
        option: &'static str,
        /// The section.
        section: String,
    },
    /// A switch that must be understood to go on is not.
    #[error("{reason}")]
    BadSwitch {
        /// The option.
        option: &'static str,
        /// The section.
        section: String,
        /// Why.
        reason: String,
    },
    /// An included file changes `[barman]`.
    #[error("the configuration file {0} contains a not empty [barman] section")]
    BarmanSectionInInclude(String),
    /// A server has the name that stands for all servers.
    #[error("the reserved word 'all' is not allowed as server name.Please rename it.")]
    ReservedName,
    /// There is no server of that name.
    #[error("Unknown server '{0}'")]
    UnknownServer(String),
    /// There is no model of that name.
    #[error("Unknown model '{0}'")]
    UnknownModel(String),
    /// The model is for another cluster.
    #[error(
        "Model '{model}' has 'cluster={model_cluster}', which is not compatible with 'cluster={cluster}' from server '{server}'"
    )]
    OtherCluster {
        /// The model.
        model: String,
        /// Its cluster.
        model_cluster: String,
        /// The server.
        server: String,
        /// The server's cluster.
        cluster: String,
    },
    /// A value given for an option, other than in a file, is not one.
    #[error("Invalid value '{value}' for option {option}: {reason}")]
    BadOverride {
        /// The option.
        option: String,
        /// The value.
        value: String,
        /// Why.
        reason: String,
    },
}

impl ConfigError {
    /// The lines that Barman prints on stderr, prefix included, before it exits with 1. Passwords in lines of a file
    /// that are quoted are hidden.
    pub fn lines(&self) -> Vec<String> {
        self.raw_lines().iter().map(|line| redacted(line)).collect()
    }

    fn raw_lines(&self) -> Vec<String> {
        match self {
            Self::NoFile(_) => vec![self.to_string()],
            Self::Ini(_) | Self::NoBarmanSection | Self::BadSwitch { .. } => {
                vec![format!("EXCEPTION: {self}"), "See log file for more details.".to_owned()]
            }
            Self::MissingParameter { .. } => vec![
                format!("ERROR: {self}"),
                "Your configuration is missing required parameters. Exiting.".to_owned(),
            ],
            Self::BarmanSectionInInclude(_) | Self::ReservedName => vec![format!("FATAL: {self}")],
            Self::Read(error) => vec![format!("ERROR: {error}: {}", error.source)],
            _ => vec![format!("ERROR: {self}")],
        }
    }
}

impl From<IniError> for ConfigError {
    fn from(error: IniError) -> Self {
        Self::Ini(error)
    }
}
