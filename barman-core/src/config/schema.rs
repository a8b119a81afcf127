//! The table of options: for each of the 121 of a server its name, scope, type, default and meaning. The typed struct
//! [`ServerOptions`], reading, rendering and documentation all come from this one table.

use camino::Utf8PathBuf;

use super::conninfo::redacted;
use super::late::{Bandwidth, MinimumRedundancy, Retention, TablespaceBandwidth};
use super::types::{
    AbsolutePath, At, CompressionLevel, Interval, Location, OptionType, Reason, Size, SlotName, Texts,
};
use super::value::Value;
use super::words::{
    AwsEncryption, BackupCompression, BackupFormat, BackupMethod, BackupOptions, CombineMode,
    CompressionLocation, CreateSlot, Encryption, RecoveryOptions, ReuseBackup, StagingLocation,
    WalCompression,
};

/// What is known of an option beside its type.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptionSpec {
    /// Its name, as in the configuration.
    pub name: &'static str,
    /// Whether a server without it takes the value of `[barman]`.
    pub inherited: bool,
    /// Whether a model may set it.
    pub in_models: bool,
    /// Its default. `%(barman_home)s`, `%(name)s`, `%(backup_directory)s`, `%(wals_directory)s` and `%(conninfo)s`
    /// stand for values of the same server.
    pub default: Option<&'static str>,
    /// Its meaning.
    pub doc: &'static str,
    /// Whether `option =` unsets it instead of being a bad value.
    pub(crate) empty_unsets: bool,
    /// Whether it can be unset at all.
    pub(crate) optional: bool,
}

/// A field of [`ServerOptions`]: an `Option`, or a type that always has a value.
trait Field {
    const OPTIONAL: bool;
    type Inner: OptionType;
    fn blank() -> Self;
    fn put(&mut self, value: Option<Self::Inner>);
    fn shown(&self) -> Value;
}

impl<T: OptionType> Field for Option<T> {
    const OPTIONAL: bool = true;
    type Inner = T;

    fn blank() -> Self {
        None
    }

    fn put(&mut self, value: Option<T>) {
        *self = value;
    }

    fn shown(&self) -> Value {
        self.as_ref().map_or(Value::None, OptionType::value)
    }
}

macro_rules! always {
    ($($ty:ty => $blank:expr),+ $(,)?) => {$(
        impl Field for $ty {
            const OPTIONAL: bool = false;
            type Inner = $ty;

            fn blank() -> Self {
                $blank
            }

            fn put(&mut self, value: Option<$ty>) {
                if let Some(value) = value {
                    *self = value;
                }
            }

            fn shown(&self) -> Value {
                self.value()
            }
        }
    )+};
}

always! {
    bool => false,
    i64 => 0,
    Utf8PathBuf => Utf8PathBuf::new(),
    Location => Location::Local(Utf8PathBuf::new()),
    AbsolutePath => AbsolutePath(Utf8PathBuf::new()),
    Size => Size(0),
    BackupMethod => BackupMethod::Rsync,
    BackupOptions => BackupOptions::default(),
    RecoveryOptions => RecoveryOptions::default(),
    CreateSlot => CreateSlot::Manual,
    StagingLocation => StagingLocation::Local,
    CombineMode => CombineMode::Copy,
    MinimumRedundancy => MinimumRedundancy(0),
}

macro_rules! default_of {
    () => {
        None
    };
    ($text:literal) => {
        Some($text)
    };
}

/// `doc name: type [inherited in_models] = default;`
macro_rules! options {
    ($($(#[doc = $doc:literal])+ $name:ident: $ty:ty [$g:literal $m:literal] $(= $default:literal)?;)+) => {
        /// The options of a server, typed, with all rules of precedence applied. The fields are the options of the
        /// configuration under their names; those that are never unset are not `Option`s.
        #[derive(Clone, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ServerOptions {
            $($(#[doc = $doc])+ pub $name: $ty,)+
        }

        /// All options of a server, in the order in which Barman reads them.
        pub static SERVER_OPTIONS: &[OptionSpec] = &[$(OptionSpec {
            name: stringify!($name),
            inherited: $g,
            in_models: $m,
            default: default_of!($($default)?),
            doc: concat!($($doc),+).trim_ascii(),
            empty_unsets: <<$ty as Field>::Inner as OptionType>::EMPTY_UNSETS,
            optional: <$ty as Field>::OPTIONAL,
        }),+];

        /// Without passwords.
        impl std::fmt::Debug for ServerOptions {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut out = f.debug_struct("ServerOptions");
                $(out.field(stringify!($name), &redacted(&Field::shown(&self.$name).to_string()));)+
                out.finish()
            }
        }

        impl ServerOptions {
            pub(crate) fn blank() -> Self {
                Self { $($name: <$ty as Field>::blank()),+ }
            }

            /// Reads and sets one option; an empty text unsets those that allow it.
            pub(crate) fn set(&mut self, text: &str, at: At<'_>) -> Result<(), Reason> {
                match at.key {
                    $(stringify!($name) => {
                        type Inner = <$ty as Field>::Inner;
                        let unset = text.is_empty() && <Inner as OptionType>::EMPTY_UNSETS;
                        let value = if unset { None } else { <Inner as OptionType>::read(text, at)? };
                        Field::put(&mut self.$name, value);
                        Ok(())
                    })+
                    unknown => Err(format!("'{unknown}' is not an option of a server")),
                }
            }

            /// The value of the named option; `None` if there is no such option.
            pub fn get(&self, name: &str) -> Option<Value> {
                match name {
                    $(stringify!($name) => Some(Field::shown(&self.$name)),)+
                    _ => None,
                }
            }
        }
    };
}

options! {
    /// Whether the server is looked after at all; an inactive one is left alone by most commands.
    active: bool [false true] = "true";
    /// Whether WAL files arriving in `incoming_wals_directory` are archived.
    archiver: bool [true true] = "off";
    /// WAL files archived from `incoming_wals_directory` in one run; 0 means all.
    archiver_batch_size: i64 [true true] = "0";
    /// Whether a file backup gets a `backup_manifest`.
    autogenerate_manifest: bool [true true] = "false";
    /// Whether the lock of an S3 object is looked up before it is deleted.
    aws_check_object_lock: bool [true true] = "off";
    /// Server-side encryption of objects in S3.
    aws_encryption: Option<AwsEncryption> [true true];
    /// The profile of the AWS credentials.
    aws_profile: Option<String> [true true];
    /// Seconds to wait for an answer of S3.
    aws_read_timeout: Option<i64> [true true];
    /// Seconds to wait for AWS snapshots.
    aws_await_snapshots_timeout: i64 [true true] = "3600";
    /// The AWS region.
    aws_region: Option<String> [true true];
    /// The lock mode of AWS snapshots: `governance` or `compliance`.
    aws_snapshot_lock_mode: Option<String> [true true];
    /// Days for which AWS snapshots are locked, 1 to 36500.
    aws_snapshot_lock_duration: Option<i64> [true true];
    /// Hours in which the lock of an AWS snapshot can still be changed, 1 to 72.
    aws_snapshot_lock_cool_off_period: Option<i64> [true true];
    /// When the lock of an AWS snapshot ends, `YYYY-MM-DDThh:mm:ss.sssZ`.
    aws_snapshot_lock_expiration_date: Option<String> [true true];
    /// The KMS key of `aws_encryption = aws:kms`.
    aws_sse_kms_key_id: Option<String> [true true];
    /// The kind of Azure credential.
    azure_credential: Option<String> [true true];
    /// The Azure resource group of the disks.
    azure_resource_group: Option<String> [true true];
    /// The Azure subscription of the disks.
    azure_subscription_id: Option<String> [true true];
    /// Compression of backups of method `postgres`.
    backup_compression: Option<BackupCompression> [true true];
    /// Whether a compressed backup is stored as archives or as plain files.
    backup_compression_format: Option<BackupFormat> [true true];
    /// The level of `backup_compression`.
    backup_compression_level: Option<i64> [true true];
    /// Whether the server or the client compresses.
    backup_compression_location: Option<CompressionLocation> [true true];
    /// Threads of `backup_compression = zstd`.
    backup_compression_workers: Option<i64> [true true];
    /// The root of everything kept of this server.
    backup_directory: Utf8PathBuf [false false] = "%(barman_home)s/%(name)s";
    /// How base backups are taken.
    backup_method: BackupMethod [true true] = "rsync";
    /// Concurrent or exclusive, and the treatment of configuration files outside of PGDATA.
    backup_options: BackupOptions [true true] = "";
    /// KB per second of a base backup.
    bandwidth_limit: Option<Bandwidth> [true true];
    /// Seconds between two attempts of the copy.
    basebackup_retry_sleep: i64 [true true] = "30";
    /// How often a failed copy is tried again.
    basebackup_retry_times: i64 [true true] = "0";
    /// Where base backups are kept.
    basebackups_directory: Location [false false] = "%(backup_directory)s/base";
    /// Seconds that `check` may take; 0 means any.
    check_timeout: i64 [true true] = "30";
    /// Objects deleted from a bucket in one request.
    cloud_delete_batch_size: Option<i64> [true true];
    /// Where parts of a backup wait for their upload.
    cloud_staging_directory: AbsolutePath [true true] = "/tmp/barman/cloud-staging";
    /// Bytes in `cloud_staging_directory` above which the backup pauses.
    cloud_staging_max_size: Size [true true] = "30Gi";
    /// Bytes above which an archive in the cloud is split.
    cloud_upload_max_archive_size: Option<Size> [false true] = "100Gi";
    /// The least size of an uploaded part.
    cloud_upload_min_chunk_size: Option<Size> [false true];
    /// WAL files that `cloud-wal-archive` sends ahead.
    cloud_wal_archive_parallel: i64 [true true] = "0";
    /// WAL files that `cloud-wal-restore` fetches ahead.
    cloud_wal_restore_parallel: i64 [true true] = "0";
    /// The cluster that the server belongs to; models of the same cluster can be applied to it.
    cluster: Option<String> [false true] = "%(name)s";
    /// Compression of archived WAL.
    compression: Option<WalCompression> [true true];
    /// The level of `compression`.
    compression_level: Option<CompressionLevel> [true true] = "medium";
    /// How to connect to PostgreSQL.
    conninfo: Option<String> [false true];
    /// The program of `compression = custom` that compresses.
    custom_compression_filter: Option<String> [true true];
    /// The first bytes of what it makes, in hexadecimal.
    custom_compression_magic: Option<String> [true true];
    /// The program of `compression = custom` that decompresses.
    custom_decompression_filter: Option<String> [true true];
    /// Free text.
    description: Option<String> [false true];
    /// Whether the configuration of the server has errors. It cannot be set in the server's section.
    disabled: bool [false true] = "false";
    /// Encryption of backups and WAL.
    encryption: Option<Encryption> [true true] = "none";
    /// The recipient of `encryption = gpg`.
    encryption_key_id: Option<String> [true true];
    /// A command that prints the passphrase for decryption.
    encryption_passphrase_command: Option<String> [true true];
    /// Where duplicate and unknown WAL files go.
    errors_directory: Utf8PathBuf [false false] = "%(backup_directory)s/errors";
    /// Whether the path of this configuration is used on the primary Barman, too.
    forward_config_path: bool [true true] = "false";
    /// The project of Google disks.
    gcp_project: Option<String> [true true];
    /// The zone of Google disks.
    gcp_zone: Option<String> [false true];
    /// Whether a backup asks for a fast checkpoint.
    immediate_checkpoint: bool [true true] = "false";
    /// Where `archive_command` puts WAL files.
    incoming_wals_directory: Utf8PathBuf [false false] = "%(backup_directory)s/incoming";
    /// Seconds between signs of life on the backup's connection; 0 means none.
    keepalive_interval: i64 [false true] = "60";
    /// The age of the last backup from which `check` fails.
    last_backup_maximum_age: Option<Interval> [true true];
    /// The size of the last backup below which `check` fails.
    last_backup_minimum_size: Option<Size> [true true];
    /// The age of the last WAL file from which `check` fails.
    last_wal_maximum_age: Option<Interval> [true true];
    /// How the files of an incremental chain are combined.
    combine_mode: CombineMode [true true] = "copy";
    /// Deprecated: see `staging_path`.
    local_staging_path: Option<AbsolutePath> [true true];
    /// Waiting WAL files from which `check` fails.
    max_incoming_wals_queue: Option<i64> [true true];
    /// Backups that must be kept at least.
    minimum_redundancy: MinimumRedundancy [true true] = "0";
    /// Whether data are compressed on the network.
    network_compression: bool [true true] = "false";
    /// Workers of a copy.
    parallel_jobs: i64 [true true] = "1";
    /// Seconds of the window in which `parallel_jobs_start_batch_size` workers may start.
    parallel_jobs_start_batch_period: i64 [true true] = "1";
    /// Workers that may start in one window.
    parallel_jobs_start_batch_size: i64 [true true] = "10";
    /// Directories put before PATH when programs are run, separated by colons.
    path_prefix: Option<String> [true true];
    /// Run after a WAL file is archived.
    post_archive_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    post_archive_retry_script: Option<String> [true false];
    /// Run after a backup.
    post_backup_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    post_backup_retry_script: Option<String> [true false];
    /// Run after a backup is deleted.
    post_delete_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    post_delete_retry_script: Option<String> [true false];
    /// Run after a restore.
    post_recovery_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    post_recovery_retry_script: Option<String> [true false];
    /// Run after a WAL file is deleted.
    post_wal_delete_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    post_wal_delete_retry_script: Option<String> [true false];
    /// Run before a WAL file is archived.
    pre_archive_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    pre_archive_retry_script: Option<String> [true false];
    /// Run before a backup.
    pre_backup_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    pre_backup_retry_script: Option<String> [true false];
    /// Run before a backup is deleted.
    pre_delete_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    pre_delete_retry_script: Option<String> [true false];
    /// Run before a restore.
    pre_recovery_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    pre_recovery_retry_script: Option<String> [true false];
    /// Run before a WAL file is deleted.
    pre_wal_delete_script: Option<String> [true false];
    /// The same, repeated until it succeeds.
    pre_wal_delete_retry_script: Option<String> [true false];
    /// Seconds after which a backup of a standby forces a checkpoint on its primary; 0 means never.
    primary_checkpoint_timeout: i64 [false true] = "0";
    /// How to connect to the primary when `conninfo` leads to a standby.
    primary_conninfo: Option<String> [false true];
    /// How to reach another Barman, from which everything is then copied: the server is passive.
    primary_ssh_command: Option<String> [true true];
    /// Whether restores use get-wal, or only what changed.
    recovery_options: RecoveryOptions [true true] = "";
    /// Deprecated: see `staging_path`.
    recovery_staging_path: Option<AbsolutePath> [true true];
    /// Who creates the replication slot.
    create_slot: CreateSlot [true true] = "manual";
    /// Which backups are needed.
    retention_policy: Option<Retention> [true true];
    /// Always `auto`.
    retention_policy_mode: Option<String> [true true] = "auto";
    /// What becomes of files that did not change since the last backup.
    reuse_backup: Option<ReuseBackup> [true true];
    /// The replication slot of WAL streaming.
    slot_name: Option<SlotName> [true true];
    /// The disks of a snapshot backup.
    snapshot_disks: Option<Texts> [false true];
    /// Deprecated: see `gcp_project`.
    snapshot_gcp_project: Option<String> [true true];
    /// The machine whose disks are snapshotted.
    snapshot_instance: Option<String> [false true];
    /// The cloud of a snapshot backup.
    snapshot_provider: Option<String> [true true];
    /// Deprecated: see `gcp_zone`.
    snapshot_zone: Option<String> [false true];
    /// How to reach the PostgreSQL host.
    ssh_command: Option<String> [false true];
    /// Where a restore decompresses, decrypts and combines.
    staging_path: Option<AbsolutePath> [true true];
    /// The machine of `staging_path`.
    staging_location: StagingLocation [true true] = "local";
    /// Whether WAL is received over the replication protocol.
    streaming_archiver: bool [true true] = "off";
    /// WAL files archived from `streaming_wals_directory` in one run; 0 means all.
    streaming_archiver_batch_size: i64 [true true] = "0";
    /// The application name of WAL streaming.
    streaming_archiver_name: Option<String> [true true] = "barman_receive_wal";
    /// The application name of streamed base backups.
    streaming_backup_name: Option<String> [true true] = "barman_streaming_backup";
    /// How to connect for the replication protocol.
    streaming_conninfo: Option<String> [false true] = "%(conninfo)s";
    /// Where received WAL arrives.
    streaming_wals_directory: Utf8PathBuf [false false] = "%(backup_directory)s/streaming";
    /// KB per second, by tablespace.
    tablespace_bandwidth_limit: Option<TablespaceBandwidth> [true true];
    /// How to connect for what concerns WAL streaming, where that is another server than `conninfo`.
    wal_conninfo: Option<String> [false true];
    /// Always `main`.
    wal_retention_policy: Option<String> [true true] = "main";
    /// How to receive WAL, where that is another server than `streaming_conninfo`.
    wal_streaming_conninfo: Option<String> [false true];
    /// Where archived WAL is kept.
    wals_directory: Location [false false] = "%(backup_directory)s/wals";
    /// The dbid of a WarehousePG server.
    warehousepg_dbid: Option<i64> [true true];
    /// Whether the archive is on storage that forbids deletion.
    worm_mode: bool [true true] = "off";
    /// Where the index of archived WAL lies.
    xlogdb_directory: Location [true false] = "%(wals_directory)s";
}

/// The options of `[barman]` that are not options of servers, and whether Barman knows them. (`log_format` works in
/// Barman, but is complained of.)
pub static GLOBAL_OPTIONS: &[(&str, bool)] = &[
    ("barman_home", true),
    ("barman_lock_directory", true),
    ("barman_user", true),
    ("config_changes_queue", true),
    ("configuration_files_directory", true),
    ("lock_directory_cleanup", true),
    ("log_file", true),
    ("log_format", false),
    ("log_level", true),
];

/// The option of that name.
pub fn option_spec(name: &str) -> Option<&'static OptionSpec> {
    SERVER_OPTIONS.iter().find(|spec| spec.name == name)
}
