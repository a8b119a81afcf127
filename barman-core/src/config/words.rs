//! The options whose value is one word, or a set of words, of a fixed list.

use super::types::{At, OptionType, Reason};
use super::value::Value;
use crate::format::pyliteral::repr_str;

/// Declares an enum of words and how it is read: the text (lowered or not), the words, the reason for refusal.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident ($fold:expr, $empty:expr) { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? } $reason:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The word of the configuration.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl OptionType for $name {
            const EMPTY_UNSETS: bool = $empty;

            fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
                let fold: fn(&str) -> String = $fold;
                let folded = fold(text);
                let reason: fn(&str, &str) -> String = $reason;
                match folded.as_str() {
                    $($word => Ok(Some(Self::$variant)),)+
                    _ => Err(reason(text, &folded)),
                }
            }

            fn value(&self) -> Value {
                Value::Text(self.as_str().to_owned())
            }
        }
    };
}

words! {
    /// `backup_method`: how a base backup is taken.
    BackupMethod (str::to_lowercase, false) {
        /// Files, over ssh.
        Rsync = "rsync",
        /// The replication protocol.
        Postgres = "postgres",
        /// Files of this machine.
        LocalRsync = "local-rsync",
        /// Snapshots of cloud disks.
        Snapshot = "snapshot",
        /// Files of this machine to a bucket.
        LocalToCloud = "local-to-cloud",
    }
    |_, _| "Invalid value (must be one in: 'rsync', 'postgres', 'local-rsync', 'snapshot', 'local-to-cloud')".into()
}

words! {
    /// `reuse_backup`: what an unchanged file of the backup before becomes.
    ReuseBackup (str::to_lowercase, false) {
        /// A copy of it.
        Copy = "copy",
        /// A hard link to it.
        Link = "link",
        /// It is fetched again.
        Off = "off",
    }
    |_, _| "Invalid value (use 'copy', 'link' or 'off')".into()
}

words! {
    /// `create_slot`: who creates the replication slot.
    CreateSlot (str::to_lowercase, false) {
        /// The administrator.
        Manual = "manual",
        /// `receive-wal`, when it starts.
        Auto = "auto",
    }
    |_, _| "Invalid value (use 'manual' or 'auto')".into()
}

words! {
    /// `compression`: the algorithm of archived WAL.
    WalCompression (str::to_lowercase, true) {
        /// gzip.
        Gzip = "gzip",
        /// bzip2.
        Bzip2 = "bzip2",
        /// gzip under its older name.
        Pygzip = "pygzip",
        /// bzip2 under its older name.
        Pybzip2 = "pybzip2",
        /// gzip, by the parallel program.
        Pigz = "pigz",
        /// xz.
        Xz = "xz",
        /// Zstandard.
        Zstd = "zstd",
        /// lz4 frames.
        Lz4 = "lz4",
        /// snappy frames.
        Snappy = "snappy",
        /// The programs of `custom_compression_filter` and `custom_decompression_filter`.
        Custom = "custom",
    }
    |_, folded| format!(
        "Invalid value: {} (must be one in: gzip, bzip2, pygzip, pybzip2, pigz, xz, zstd, lz4, snappy, custom)",
        repr_str(folded)
    )
}

words! {
    /// `backup_compression`: the algorithm of a backup of method `postgres`.
    BackupCompression (str::to_lowercase, false) {
        /// gzip.
        Gzip = "gzip",
        /// lz4.
        Lz4 = "lz4",
        /// Zstandard.
        Zstd = "zstd",
        /// None.
        None = "none",
    }
    // The blank that is missing before the bracket is Barman's.
    |text, _| format!("Invalid value {}(must be one in: ['gzip', 'lz4', 'zstd', 'none'])", repr_str(text))
}

words! {
    /// `backup_compression_format`: what a compressed backup is on disk.
    BackupFormat (str::to_lowercase, false) {
        /// Plain files: compression is for the network only.
        Plain = "plain",
        /// Compressed tar archives.
        Tar = "tar",
    }
    |_, _| "Invalid value (must be either `plain` or `tar`)".into()
}

words! {
    /// `backup_compression_location`: where a backup is compressed.
    CompressionLocation (str::to_lowercase, false) {
        /// Here.
        Client = "client",
        /// By the server (PostgreSQL 15 and newer).
        Server = "server",
    }
    |_, _| "Invalid value (must be either `client` or `server`)".into()
}

words! {
    /// `staging_location`: on which machine a restore stages. Upper case is refused, as Barman does.
    StagingLocation (str::to_owned, false) {
        /// This one.
        Local = "local",
        /// The destination.
        Remote = "remote",
    }
    |_, folded| format!("Invalid value: {folded} (options are: local, remote)")
}

words! {
    /// `combine_mode`: how files get from the parts of an incremental chain into the combined backup.
    CombineMode (str::to_lowercase, false) {
        /// Copied.
        Copy = "copy",
        /// Hard links.
        Link = "link",
        /// Copy-on-write clones.
        Clone = "clone",
        /// `copy_file_range`.
        CopyFileRange = "copy-file-range",
    }
    |_, folded| format!("Invalid value: {folded} (options are: copy, link, clone, copy-file-range)")
}

words! {
    /// `aws_encryption`: server-side encryption of objects in S3.
    AwsEncryption (str::to_owned, false) {
        /// With keys of S3.
        Aes256 = "AES256",
        /// With keys of the key management service.
        AwsKms = "aws:kms",
    }
    |text, _| format!("Invalid value {} (must be one in: ['AES256', 'aws:kms'])", repr_str(text))
}

/// `encryption`: of backups and WAL. `none` is the same as unset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// GnuPG, for the key of `encryption_key_id`.
    Gpg,
}

impl OptionType for Encryption {
    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        match text.to_lowercase().as_str() {
            "none" => Ok(None),
            "gpg" => Ok(Some(Self::Gpg)),
            other => {
                Err(format!("Invalid encryption value {}. Allowed values are: none, gpg.", repr_str(other)))
            }
        }
    }

    fn value(&self) -> Value {
        Value::Text("gpg".into())
    }
}

/// Declares a set of words: a struct of switches, read from a list separated by commas.
macro_rules! word_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $field:ident = $word:literal),+ $(,)? } conflicts $conflicts:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$vdoc])* pub $field: bool),+ }

        impl OptionType for $name {
            fn read(text: &str, at: At<'_>) -> Result<Option<Self>, Reason> {
                let mut set = Self::default();
                if text.is_empty() {
                    return Ok(Some(set));
                }
                // Barman sorts before it trims, which shows in the word that it reports.
                let lower = text.to_lowercase();
                let mut words: Vec<&str> = lower.split(',').collect();
                words.sort_unstable();
                let words: Vec<&str> = words.into_iter().map(str::trim).collect();
                let conflicts: &[(&str, &str)] = $conflicts;
                let fail = |word: &str, why: String| {
                    let At { key, place } = at;
                    Err(format!("Invalid configuration value {} for key {key} in {place}: {why}", repr_str(word)))
                };
                for (index, word) in words.iter().enumerate() {
                    match *word {
                        $($word => set.$field = true,)+
                        _ => return fail(word, "Unknown option".into()),
                    }
                    let rival = conflicts.iter().find_map(|(one, other)| match *word {
                        word if word == *one => Some(*other),
                        word if word == *other => Some(*one),
                        _ => None,
                    });
                    if let Some(rival) = rival.filter(|rival| words[..index].contains(rival)) {
                        let why = format!("cannot contain both '{word}' and '{rival}'.Configuration directive ignored.");
                        return fail(word, why);
                    }
                }
                Ok(Some(set))
            }

            fn value(&self) -> Value {
                let mut words = Vec::new();
                $(if self.$field { words.push($word); })+
                words.sort_unstable();
                Value::Set { class: stringify!($name), words }
            }
        }
    };
}

word_set! {
    /// `backup_options`.
    BackupOptions {
        /// `exclusive_backup`: carried out as a concurrent backup; servers since PostgreSQL 15 know no other.
        exclusive_backup = "exclusive_backup",
        /// `concurrent_backup`.
        concurrent_backup = "concurrent_backup",
        /// `external_configuration`: configuration files outside of PGDATA are left alone without a warning.
        external_configuration = "external_configuration",
    }
    conflicts &[("exclusive_backup", "concurrent_backup")]
}

word_set! {
    /// `recovery_options`.
    RecoveryOptions {
        /// `get-wal`: the restored server fetches its WAL through `barman get-wal`.
        get_wal = "get-wal",
        /// `delta-restore`: what the destination already has is not copied again.
        delta_restore = "delta-restore",
    }
    conflicts &[]
}
