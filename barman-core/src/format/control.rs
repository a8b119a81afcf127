//! `global/pg_control`: the facts of a cluster that a backup needs, and the proof (its CRC) that they were not torn.
//!
//! The file is the C struct `ControlFileData` (PostgreSQL's `src/include/catalog/pg_control.h`) padded to 8192 bytes, as
//! a 64-bit little-endian machine lays it out. Only the first sixteen bytes keep their place for ever: system
//! identifier, `pg_control_version`, catalog version. The rest moves with `pg_control_version`, so for each known one
//! [`Layout`] gives the offsets of what is read here; what stands between is skipped, but for the CRC, which covers all
//! bytes before itself.

use crc32c::crc32c;
use time::OffsetDateTime;

use crate::model::{Lsn, PgVersion, SegmentSize, SystemId, Timeline};

/// What a server does, `DBState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names of PostgreSQL's enum
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ClusterState {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::StartingUp,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
}

/// What `pg_control` says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControlFile {
    /// The cluster.
    pub system_id: SystemId,
    /// The layout of the file: 1300 is PostgreSQL 13 to 16.
    pub control_version: u32,
    /// The layout of the system catalogs, one for each major version.
    pub catalog_version: u32,
    /// What the server did when it last wrote the file.
    pub state: ClusterState,
    /// When the file was last written, to the second.
    pub written: Option<OffsetDateTime>,
    /// The latest checkpoint record.
    pub checkpoint: Lsn,
    /// Where replay starts from that checkpoint.
    pub redo: Lsn,
    /// The timeline of the latest checkpoint.
    pub timeline: Timeline,
    /// When that checkpoint was taken, to the second.
    pub checkpoint_time: Option<OffsetDateTime>,
    /// Replay must come this far before the cluster is consistent; [`Lsn::INVALID`] outside of recovery.
    pub min_recovery_point: Lsn,
    /// Start of the base backup that is being recovered from, [`Lsn::INVALID`] otherwise.
    pub backup_start: Lsn,
    /// Bytes in a data page.
    pub block_size: u32,
    /// Data pages in one file of a relation.
    pub blocks_per_file: u32,
    /// Bytes in a WAL page.
    pub wal_block_size: u32,
    /// Bytes in a WAL segment.
    pub segment_size: SegmentSize,
    /// Version of the data checksums; 0 when there are none.
    pub checksum_version: u32,
}

impl ControlFile {
    /// Whether data pages carry checksums.
    pub fn has_checksums(&self) -> bool {
        self.checksum_version != 0
    }

    /// The major version that made the cluster, by its catalog version; `None` for one that was never released.
    pub fn major(&self) -> Option<PgVersion> {
        CATALOGS.iter().find(|(catalog, _)| *catalog == self.catalog_version).map(|(_, v)| PgVersion::new(*v))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When it is too short, of an unknown version or byte order, torn (its CRC does not match: read it again), or holds
    /// a value that cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        let short = |needed: usize| ControlError::TooShort { needed, found: bytes.len() };
        let control_version = u32_at(bytes, 8).ok_or(short(16))?;
        let catalog_version = u32_at(bytes, 12).ok_or(short(16))?;
        if control_version != 0 && control_version.is_multiple_of(65_536) {
            return Err(ControlError::OtherByteOrder);
        }
        let layout = Layout::of(control_version, catalog_version)
            .ok_or(ControlError::UnknownVersion { found: control_version })?;
        let covered = bytes.get(..layout.crc).ok_or(short(layout.crc + 4))?;
        let expected = u32_at(bytes, layout.crc).ok_or(short(layout.crc + 4))?;
        let found = if control_version == 942 && catalog_version < FIRST_CRC32C_CATALOG {
            legacy_crc(covered)
        } else {
            crc32c(covered)
        };
        if found != expected {
            return Err(ControlError::BadCrc { expected, found });
        }
        let number = |at: usize| u32_at(bytes, at).ok_or(short(at + 4));
        let long = |at: usize| u64_at(bytes, at).ok_or(short(at + 8));
        let moment = |seconds: u64| OffsetDateTime::from_unix_timestamp(seconds as i64).ok();
        let impossible = |what: &'static str, value: u32| ControlError::Impossible { what, value };
        let state = number(16)?;
        let timeline = number(layout.checkpoint_copy + 8)?;
        let block_size = number(layout.block_size)?;
        let blocks_per_file = number(layout.block_size + 4)?;
        let wal_block_size = number(layout.block_size + 8)?;
        let segment_size = number(layout.block_size + 12)?;
        let is_block = |size: u32| size.is_power_of_two() && (1 << 10..=1 << 16).contains(&size);
        if !is_block(block_size) {
            return Err(impossible("data page size", block_size));
        }
        if !is_block(wal_block_size) {
            return Err(impossible("WAL page size", wal_block_size));
        }
        if blocks_per_file == 0 {
            return Err(impossible("number of pages in a file", blocks_per_file));
        }
        Ok(Self {
            system_id: SystemId::new(long(0)?),
            control_version,
            catalog_version,
            state: ClusterState::from_number(state).ok_or(impossible("cluster state", state))?,
            written: moment(long(24)?),
            checkpoint: Lsn::new(long(32)?),
            redo: Lsn::new(long(layout.checkpoint_copy)?),
            timeline: Timeline::new(timeline).ok_or(impossible("timeline", timeline))?,
            checkpoint_time: moment(long(layout.checkpoint_time)?),
            min_recovery_point: Lsn::new(long(layout.min_recovery_point)?),
            backup_start: Lsn::new(long(layout.min_recovery_point + 16)?),
            block_size,
            blocks_per_file,
            wal_block_size,
            segment_size: SegmentSize::from_bytes(u64::from(segment_size))
                .map_err(|_| impossible("WAL segment size", segment_size))?,
            checksum_version: number(layout.checksum_version)?,
        })
    }
}

/// Offsets of the fields that move. Sizes of the C types: `XLogRecPtr` and `pg_time_t` 8 bytes, `TimeLineID` and `int`
/// 4, `bool` 1, each aligned to its size.
struct Layout {
    /// `checkPointCopy` (struct `CheckPoint`): `redo`, then `ThisTimeLineID` 8 bytes on.
    checkpoint_copy: usize,
    /// `checkPointCopy.time`.
    checkpoint_time: usize,
    /// `minRecoveryPoint`, its timeline, and 16 bytes on `backupStartPoint`.
    min_recovery_point: usize,
    /// `blcksz`, then `relseg_size`, `xlog_blcksz`, `xlog_seg_size`.
    block_size: usize,
    checksum_version: usize,
    crc: usize,
}

impl Layout {
    const fn new(
        checkpoint_copy: usize,
        checkpoint_time: usize,
        min_recovery_point: usize,
        block_size: usize,
        checksum_version: usize,
        crc: usize,
    ) -> Self {
        Self { checkpoint_copy, checkpoint_time, min_recovery_point, block_size, checksum_version, crc }
    }

    fn of(control_version: u32, catalog_version: u32) -> Option<Self> {
        Some(match control_version {
            // 9.4; 9.5 added commit timestamps without a new number.
            942 if catalog_version < FIRST_CRC32C_CATALOG => Self::new(48, 104, 128, 200, 236, 240),
            942 | 960 => Self::new(48, 104, 136, 216, 252, 256),
            // 10 added mock_authentication_nonce before the CRC.
            1002 => Self::new(48, 104, 136, 216, 252, 288),
            // 11 dropped prevCheckPoint.
            1100 => Self::new(40, 96, 128, 208, 244, 280),
            // 12 has a 64-bit nextXid and max_wal_senders; 13 dropped float4ByVal; 17 has wal_level in the checkpoint.
            1201 | 1300 | 1700 => Self::new(40, 104, 136, 216, 252, 288),
            // 18 added default_char_signedness.
            1800 => Self::new(40, 104, 136, 216, 252, 292),
            _ => return None,
        })
    }
}

/// Catalog versions from here on are of 9.5, where the CRC became CRC-32C.
const FIRST_CRC32C_CATALOG: u32 = 201_500_000;

/// `CATALOG_VERSION_NO` (`src/include/catalog/catversion.h`) of the released versions.
const CATALOGS: [(u32, u32); 12] = [
    (201_409_291, 90_400),
    (201_510_051, 90_500),
    (201_608_131, 90_600),
    (201_707_211, 100_000),
    (201_809_051, 110_000),
    (201_909_212, 120_000),
    (202_007_201, 130_000),
    (202_107_181, 140_000),
    (202_209_061, 150_000),
    (202_307_071, 160_000),
    (202_406_281, 170_000),
    (202_506_291, 180_000),
];

/// What can be wrong with a `pg_control`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The file ends too early.
    #[error("pg_control has {found} bytes where at least {needed} are needed")]
    TooShort {
        /// Bytes needed.
        needed: usize,
        /// Bytes there.
        found: usize,
    },
    /// A layout that this program does not know.
    #[error("pg_control has version {found}, which is not that of PostgreSQL 9.4 to 18")]
    UnknownVersion {
        /// `pg_control_version`.
        found: u32,
    },
    /// Written on a big-endian machine.
    #[error("pg_control is in big-endian byte order, which is not supported")]
    OtherByteOrder,
    /// The content was torn or damaged.
    #[error("pg_control has CRC 0x{expected:08X} but its content gives 0x{found:08X}: torn or damaged")]
    BadCrc {
        /// The CRC in the file.
        expected: u32,
        /// The CRC of its content.
        found: u32,
    },
    /// The CRC is right but a value cannot be.
    #[error("pg_control names an impossible {what}: {value}")]
    Impossible {
        /// Which value.
        what: &'static str,
        /// The value.
        value: u32,
    },
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The CRC of PostgreSQL before 9.5 (`COMP_LEGACY_CRC32` in `src/include/utils/pg_crc.h`): a reflected table walked
/// in the direction of an unreflected one.
fn legacy_crc(bytes: &[u8]) -> u32 {
    let entry = |index: u32| {
        (0..8).fold(index, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    };
    !bytes.iter().fold(u32::MAX, |crc, byte| entry((crc >> 24 ^ u32::from(*byte)) & 0xFF) ^ crc << 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file of this layout with distinct values.
    fn made(control_version: u32, catalog_version: u32) -> Vec<u8> {
        let layout = Layout::of(control_version, catalog_version).unwrap();
        let mut b = vec![0u8; 8192];
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &7_711_114_132_867_599_874u64.to_le_bytes());
        put(8, &control_version.to_le_bytes());
        put(12, &catalog_version.to_le_bytes());
        put(16, &6u32.to_le_bytes());
        put(24, &1_795_383_954u64.to_le_bytes());
        put(32, &0x600_0098u64.to_le_bytes());
        put(layout.checkpoint_copy, &0x600_0028u64.to_le_bytes());
        put(layout.checkpoint_copy + 8, &26u32.to_le_bytes());
        put(layout.checkpoint_time, &1_795_383_900u64.to_le_bytes());
        put(layout.block_size, &8192u32.to_le_bytes());
        put(layout.block_size + 4, &131_072u32.to_le_bytes());
        put(layout.block_size + 8, &8192u32.to_le_bytes());
        put(layout.block_size + 12, &(1u32 << 26).to_le_bytes());
        put(layout.checksum_version, &1u32.to_le_bytes());
        seal(&mut b, layout.crc, catalog_version);
        b
    }

    fn seal(b: &mut [u8], at: usize, catalog: u32) {
        let crc = if catalog < FIRST_CRC32C_CATALOG { legacy_crc(&b[..at]) } else { crc32c(&b[..at]) };
        b[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    const VERSIONS: [(u32, u32); 12] = [
        (942, 201_409_291),
        (942, 201_510_051),
        (960, 201_608_131),
        (1002, 201_707_211),
        (1100, 201_809_051),
        (1201, 201_909_212),
        (1300, 202_007_201),
        (1300, 202_107_181),
        (1300, 202_209_061),
        (1300, 202_307_071),
        (1700, 202_406_281),
        (1800, 202_506_291),
    ];

    #[test]
    fn every_version_is_read() {
        for ((control, catalog), (_, major)) in VERSIONS.into_iter().zip(CATALOGS) {
            let file = ControlFile::parse(&made(control, catalog)).unwrap();
            assert_eq!(file.major(), Some(PgVersion::new(major)));
            assert_eq!(file.system_id.to_string(), "7711114132867599874");
            assert_eq!(file.state, ClusterState::InProduction);
            assert_eq!((file.checkpoint.to_string().as_str(), file.redo.get()), ("0/6000098", 0x600_0028));
            assert_eq!((file.timeline.get(), file.block_size, file.blocks_per_file), (26, 8192, 131_072));
            assert_eq!(file.segment_size.bytes(), 1 << 26);
            assert!(file.has_checksums());
            assert_eq!(file.checkpoint_time.unwrap().unix_timestamp(), 1_795_383_900);
        }
    }

    #[test]
    fn torn_foreign_and_impossible_files_are_refused() {
        let good = made(1300, 202_209_061);
        let mut torn = good.clone();
        torn[140] ^= 1;
        assert!(matches!(ControlFile::parse(&torn), Err(ControlError::BadCrc { .. })));
        let mut big = good.clone();
        big[8..12].reverse();
        assert_eq!(ControlFile::parse(&big), Err(ControlError::OtherByteOrder));
        let mut new = good.clone();
        new[8..12].copy_from_slice(&9999u32.to_le_bytes());
        assert_eq!(ControlFile::parse(&new), Err(ControlError::UnknownVersion { found: 9999 }));
        assert_eq!(ControlFile::parse(&good[..100]), Err(ControlError::TooShort { needed: 292, found: 100 }));
        assert!(ControlFile::parse(&[]).is_err());
        for (at, what) in
            [(16, "cluster state"), (48, "timeline"), (216, "data page size"), (228, "WAL segment size")]
        {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&if at == 48 { 0u32 } else { 77 }.to_le_bytes());
            seal(&mut bad, 288, 202_209_061);
            let found = ControlFile::parse(&bad).unwrap_err();
            assert!(matches!(found, ControlError::Impossible { what: w, .. } if w == what), "{found}");
        }
    }

    proptest! {
        #[test]
        fn no_flipped_bit_goes_unseen(at in 0usize..288, bit in 0u32..8) {
            let mut bytes = made(1300, 202_209_061);
            bytes[at] ^= 1 << bit;
            prop_assert!(ControlFile::parse(&bytes).is_err());
        }

        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), pick in 0usize..12) {
            let _ = ControlFile::parse(&bytes);
            if bytes.len() > 300 {
                let (control, catalog) = VERSIONS[pick];
                bytes[8..12].copy_from_slice(&control.to_le_bytes());
                bytes[12..16].copy_from_slice(&catalog.to_le_bytes());
                let at = Layout::of(control, catalog).unwrap().crc;
                seal(&mut bytes, at, catalog);
                let _ = ControlFile::parse(&bytes);
            }
        }
    }
}
