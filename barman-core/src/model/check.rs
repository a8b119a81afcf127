//! [`Check`]: one line of `barman check`.

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The condition holds.
    Ok,
    /// It does not.
    Failed,
}

/// The verdict on one condition of a server, with the names that Barman prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Barman's name of the check (`archive_mode`, `backup maximum age` …).
    pub name: String,
    /// The verdict.
    pub outcome: Outcome,
    /// What to know or do, printed in brackets after the verdict; empty for none.
    pub hint: String,
    /// Whether a failure keeps a backup from being started.
    pub critical: bool,
}

impl Check {
    /// A condition that holds.
    pub fn ok(name: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Ok, hint: hint.into(), critical: true }
    }

    /// A condition that does not hold.
    pub fn failed(name: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.into(), outcome: Outcome::Failed, hint: hint.into(), critical: true }
    }

    /// `ok` or `failed`, as a value.
    pub fn verdict(name: impl Into<String>, passed: bool, hint: impl Into<String>) -> Self {
        if passed { Self::ok(name, hint) } else { Self::failed(name, hint) }
    }

    /// The same check, as one whose failure does not keep a backup from being started.
    pub fn non_critical(self) -> Self {
        Self { critical: false, ..self }
    }
}
