//! Is a cluster sound? Page checksums and the structure of tables and indexes, checked with nothing of `barman-core`.

use std::fs::File;
use std::io::Read;

use camino::{Utf8Path, Utf8PathBuf};

use super::cluster::{Cluster, StopMode};
use super::session::Session;
use crate::error::{Error, IoContext, Result};
use crate::os::output;

/// What [`verify_cluster`] looked at. All of it was sound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// B-tree indexes checked by amcheck, with all heap tuples looked up in them (11 and later).
    pub indexes: usize,
    /// Tables checked by `verify_heapam` (14 and later; else 0).
    pub tables: usize,
    /// Pages whose checksum was computed by this module; 0 when the cluster has no checksums.
    pub pages: u64,
    /// The `pg_checksums` that agreed, when one of this major is installed.
    pub pg_checksums: Option<Utf8PathBuf>,
}

/// Checks a running cluster with amcheck in every database, then stops it, checks every page, and starts it again.
///
/// amcheck is created in a transaction that is rolled back. On a server in recovery, which is read-only, only the pages are checked.
///
/// # Errors
/// [`Error::Damaged`] with all findings; or what hinders the check.
pub fn verify_cluster(cluster: &mut Cluster) -> Result<Verified> {
    let mut verified = Verified::default();
    let mut findings = Vec::new();
    if cluster.psql("SELECT pg_is_in_recovery()")? == "f" {
        amcheck(cluster, &mut verified, &mut findings)?;
    }
    let checksums = cluster.psql("SHOW data_checksums")? == "on";
    cluster.stop(StopMode::Fast)?;
    if checksums {
        verify_pages(cluster.pgdata(), &mut verified.pages, &mut findings)?;
        if let Some(tool) = cluster.tool("pg_checksums") {
            let said =
                output(cluster.account().command(&tool).args(["--check", "-D", cluster.pgdata().as_str()]))?;
            if !said.status.success() {
                findings.push(String::from_utf8_lossy(&said.stderr).into_owned());
            }
            verified.pg_checksums = Some(tool);
        }
    }
    if !findings.is_empty() {
        return Err(Error::Damaged { pgdata: cluster.pgdata().to_owned(), findings: findings.join("\n") });
    }
    cluster.start()?;
    Ok(verified)
}

fn amcheck(cluster: &Cluster, verified: &mut Verified, findings: &mut Vec<String>) -> Result<()> {
    const INDEXES: &str = "SELECT c.oid, c.oid::regclass AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i' \
         AND c.relpersistence <> 't' AND i.indisready AND i.indisvalid ORDER BY 1";
    const TABLES: &str = "SELECT oid, oid::regclass AS name FROM pg_class \
         WHERE relkind IN ('r', 't', 'm') AND relpersistence <> 't' ORDER BY 1";
    let also_heap = if cluster.major() >= 11 { ", true" } else { "" };
    let databases = cluster.psql("SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname")?;
    for database in databases.lines() {
        let mut session = cluster.connect_to("postgres", database)?;
        session.query("BEGIN; CREATE EXTENSION IF NOT EXISTS amcheck")?;
        // All in one statement; only when that fails one by one, to tell which.
        let all =
            format!("SELECT count(*) FROM (SELECT bt_index_check(oid{also_heap}) FROM ({INDEXES}) i) c");
        match attempt(&mut session, &all)? {
            Ok(count) => verified.indexes += count.parse().unwrap_or(0),
            Err(_) => {
                let indexes = session.psql(INDEXES)?;
                for (oid, name) in pairs(&indexes) {
                    let said = attempt(&mut session, &format!("SELECT bt_index_check({oid}{also_heap})"))?;
                    findings.extend(said.err().map(|error| format!("index {name} of {database}: {error}")));
                    verified.indexes += 1;
                }
            }
        }
        if cluster.major() >= 14 {
            let tables = session.psql(TABLES)?;
            verified.tables += tables.lines().count();
            let check = |tables: &str| {
                format!(
                    "SELECT name, blkno, offnum, attnum, msg \
                     FROM ({tables}) t, LATERAL verify_heapam(oid, check_toast => true)"
                )
            };
            let said = match attempt(&mut session, &check(TABLES))? {
                Ok(said) => said,
                Err(_) => {
                    let mut said = Vec::new();
                    for (oid, name) in pairs(&tables) {
                        let one = check(&format!("SELECT {oid}::regclass AS oid, '{name}' AS name"));
                        said.push(
                            attempt(&mut session, &one)?.unwrap_or_else(|error| format!("{name}: {error}")),
                        );
                    }
                    said.join("\n")
                }
            };
            let lines = said.lines().filter(|line| !line.is_empty());
            findings.extend(lines.map(|finding| format!("table of {database}: {finding}")));
        }
        session.query("ROLLBACK")?;
    }
    Ok(())
}

/// Lines of `oid|name`.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().map(|line| line.split_once('|').unwrap_or((line, "")))
}

/// Runs a check whose failure is a finding and must not end the transaction. The outer error is a lost connection.
fn attempt(session: &mut Session, sql: &str) -> Result<Result<String>> {
    session.query("SAVEPOINT one")?;
    let said = session.psql(sql);
    if said.is_err() {
        session.query("ROLLBACK TO one")?;
    }
    Ok(said)
}

/// The block size of all builds that this crate uses.
const PAGE: usize = 8192;
/// Blocks in a file of a relation before the next one begins (`RELSEG_SIZE`).
const BLOCKS_IN_FILE: u32 = 131_072;

/// Computes the checksum of each page below `base`, `global` and the tablespaces of a stopped cluster.
fn verify_pages(pgdata: &Utf8Path, pages: &mut u64, findings: &mut Vec<String>) -> Result<()> {
    let mut pending = vec![pgdata.join("base"), pgdata.join("global")];
    let links = pgdata.join("pg_tblspc");
    for entry in links.read_dir_utf8().context("list", &links)? {
        pending.push(entry.context("list", &links)?.into_path());
    }
    while let Some(dir) = pending.pop() {
        for entry in dir.read_dir_utf8().context("list", &dir)? {
            let path = entry.context("list", &dir)?.into_path();
            if path.is_dir() {
                pending.push(path);
            } else if let Some(segment) = path.file_name().and_then(relation_segment) {
                verify_file(&path, segment, pages, findings)?;
            }
        }
    }
    Ok(())
}

/// The number of the file within its relation fork, when the name is that of a relation: `16384`, `16384_fsm`, `16384.1`.
fn relation_segment(name: &str) -> Option<u32> {
    let (stem, segment) = match name.split_once('.') {
        Some((stem, number)) => (stem, number.parse().ok()?),
        None => (name, 0),
    };
    let (node, fork) = stem.split_once('_').unwrap_or((stem, "fsm"));
    let is_node = !node.is_empty() && node.bytes().all(|b| b.is_ascii_digit());
    (is_node && matches!(fork, "fsm" | "vm" | "init")).then_some(segment)
}

fn verify_file(path: &Utf8Path, segment: u32, pages: &mut u64, findings: &mut Vec<String>) -> Result<()> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).context("read", path)?;
    if !bytes.len().is_multiple_of(PAGE) {
        findings.push(format!("{path}: its {} bytes are not whole pages", bytes.len()));
    }
    for (block, page) in bytes.chunks_exact(PAGE).enumerate() {
        *pages += 1;
        // A page that was only allocated is all zero and has no checksum; pd_upper tells.
        if page[14..16] == [0, 0] {
            if page.iter().any(|byte| *byte != 0) {
                findings.push(format!("{path}: block {block} has an empty header but is not all zero"));
            }
            continue;
        }
        let stored = u16::from_le_bytes([page[8], page[9]]);
        let computed = page_checksum(page, segment * BLOCKS_IN_FILE + block as u32);
        if stored != computed {
            findings
                .push(format!("{path}: block {block} has checksum {stored:04X}, computed {computed:04X}"));
        }
    }
    Ok(())
}

/// `pg_checksum_page` of PostgreSQL's `storage/checksum_impl.h`, word by word: 32 parallel FNV-1a sums with an extra shift.
fn page_checksum(page: &[u8], block: u32) -> u16 {
    const SEEDS: [u32; 32] = [
        0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
        0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
        0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
        0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
    ];
    let mix = |sum: u32, value: u32| {
        let mixed = sum ^ value;
        mixed.wrapping_mul(16_777_619) ^ (mixed >> 17)
    };
    let mut sums = SEEDS;
    for (index, word) in page.chunks_exact(4).enumerate() {
        let mut value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        if index == 2 {
            // The checksum itself (the low half of this word) counts as zero.
            value &= 0xFFFF_0000;
        }
        sums[index % 32] = mix(sums[index % 32], value);
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ mix(mix(*sum, 0), 0));
    ((folded ^ block) % 65_535 + 1) as u16
}
