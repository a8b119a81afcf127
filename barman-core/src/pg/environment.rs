//! [`Environment`]: what libpq would read from its process, as a value. The command line fills it; this room only reads
//! the files that it names.

use std::collections::BTreeMap;
use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};

use crate::model::Secret;

/// The `PG…` variables, the home directory and the name of the operating system's user.
///
/// [`Environment::default`] is an empty one: nothing but the connection string counts then.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, Secret>,
    home: Option<Utf8PathBuf>,
    user: Option<String>,
}

impl Environment {
    /// An environment with those of the given variables whose name begins with `PG`.
    pub fn new<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .filter(|(name, value)| name.starts_with("PG") && !value.is_empty())
            .map(|(name, value)| (name, Secret::new(value)))
            .collect();
        Self { variables, home: None, user: None }
    }

    /// With the directory that holds `.pgpass`, `.pg_service.conf` and `.postgresql/`.
    pub fn with_home(mut self, home: impl Into<Utf8PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// With the name of the operating system's user, the default role.
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The value of a variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(Secret::expose)
    }

    /// The home directory.
    pub(super) fn home(&self) -> Option<&Utf8Path> {
        self.home.as_deref()
    }

    /// The user.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("variables", &self.variables.keys().collect::<Vec<_>>())
            .field("home", &self.home)
            .field("user", &self.user)
            .finish()
    }
}
