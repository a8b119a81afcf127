//! The configuration: what the user's files say, typed and validated by Barman's rules, each value with its source.
//! [`Config::load`] is the entry. Nothing in here prints or connects; warnings and errors are values in Barman's words.

mod conninfo;
mod effects;
mod error;
mod late;
mod lint;
mod load;
mod model;
mod paths;
mod precedence;
mod schema;
mod server;
mod types;
mod value;
mod words;

pub use crate::format::ini::Source;
pub use conninfo::redacted;
pub use error::ConfigError;
pub use late::{Bandwidth, MinimumRedundancy, Retention, TablespaceBandwidth};
pub(crate) use lint::NO_KEY;
pub use lint::{Operation, refusals, remarks};
pub use load::{Config, Globals, LoadEnv, Notice, Severity};
pub use model::{ACTIVE_MODEL_FILE, Change, ModelConfig, Switch};
pub use schema::{GLOBAL_OPTIONS, OptionSpec, SERVER_OPTIONS, ServerOptions, option_spec};
pub use server::{OptionView, ServerConfig};
pub use types::{AbsolutePath, CompressionLevel, Interval, Location, Reason, Size, SlotName, Texts};
pub use value::Value;
pub use words::{
    AwsEncryption, BackupCompression, BackupFormat, BackupMethod, BackupOptions, CombineMode,
    CompressionLocation, CreateSlot, Encryption, RecoveryOptions, ReuseBackup, StagingLocation,
    WalCompression,
};

#[cfg(test)]
mod tests;
