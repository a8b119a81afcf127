//! What `barman-wal-archive` sends along: segments that PostgreSQL has marked as ready and will ask for next. Each that
//! the other side has safely leaves a marker, which answers its own call at once.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;

use barman_core::format::wal_page::FirstPage;
use barman_core::model::WalFileName;
use camino::{Utf8Path, Utf8PathBuf};

use crate::client::{Remote, private_directory};

/// So many files are sent along at most.
pub(crate) const MOST: usize = 8;

/// The markers of one server and one destination.
pub(crate) struct Markers {
    dir: Utf8PathBuf,
    /// Where the server's WAL files lie.
    wal: Utf8PathBuf,
}

/// What a file is, as far as that can be told without reading all of it: as long as all of this is the same, so is its
/// content. PostgreSQL gives a recycled file another name, and writes to it before it is ready again.
#[derive(Debug, PartialEq, Eq)]
struct Identity(String);

impl Identity {
    fn of(path: &Utf8Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let facts = file.metadata()?;
        let mut start = Vec::new();
        Read::by_ref(&mut file).take(40).read_to_end(&mut start)?;
        // A history file belongs to no cluster by itself; its content is part of what it is.
        let cluster = match FirstPage::parse(&start) {
            Some(page) => page.system_id.to_string(),
            None => String::from_utf8_lossy(&start).replace(char::is_whitespace, "_"),
        };
        Ok(Self(format!(
            "{cluster} {} {} {}.{:09} {}",
            facts.dev(),
            facts.ino(),
            facts.mtime(),
            facts.mtime_nsec(),
            facts.size()
        )))
    }
}

impl Markers {
    /// The markers for what lies beside a WAL file; `None` where there is no private place for them, or where the file does
    /// not lie in a server's WAL directory.
    pub(crate) fn open(base: &Utf8Path, remote: &Remote, path: &Utf8Path) -> Option<Self> {
        let absolute = path.canonicalize_utf8().ok()?;
        let wal = absolute.parent()?.to_owned();
        if !wal.join("archive_status").is_dir() {
            return None;
        }
        let config = remote.config.clone().unwrap_or_default();
        let parts = [&remote.user, &remote.host, &remote.server, &config, wal.as_str()];
        let dir = private_directory(base, &parts.map(|part| part as &str), remote.port).ok()?;
        Some(Self { dir, wal })
    }

    /// Whether the file was sent along before and is the same still. The marker has served its purpose then.
    pub(crate) fn answers(&self, name: &str) -> bool {
        let marker = self.dir.join(name);
        let Ok(known) = fs::read_to_string(&marker) else { return false };
        let same = Identity::of(&self.wal.join(name)).is_ok_and(|own| own.0 == known.trim_end());
        // One that does not fit is void for good.
        let removed = fs::remove_file(&marker).is_ok();
        same && removed
    }

    /// The files that will be asked for next and were not sent yet, in the order in which they are asked for: histories, then
    /// what follows `own`. Markers of what is not to be sent any longer are removed on the way.
    pub(crate) fn ready_after(&self, own: &str) -> Vec<String> {
        let listed = self.wal.join("archive_status").read_dir_utf8();
        let mut ready: Vec<WalFileName> = listed
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().strip_suffix(".ready")?.parse().ok())
            .collect();
        ready.sort_unstable_by_key(|name| (!matches!(name, WalFileName::History(_)), *name));
        for entry in self.dir.read_dir_utf8().into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !name.starts_with('.') && !ready.iter().any(|ready| ready.to_string() == name) {
                // Whoever archives the same at the same time may be faster.
                let _ = fs::remove_file(entry.path());
            }
        }
        let wanted = own.parse::<WalFileName>().ok();
        let mut names = Vec::new();
        for name in ready {
            let text = name.to_string();
            let follows = matches!(name, WalFileName::History(_)) || wanted.is_some_and(|own| own < name);
            if text != own && follows && !self.dir.join(&text).exists() {
                names.push(text);
            }
        }
        names.truncate(MOST);
        names
    }

    /// Where a file lies.
    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        self.wal.join(name)
    }

    /// What a file is before it is read: it must still be that when the other side has it.
    pub(crate) fn identity(&self, name: &str) -> io::Result<String> {
        Identity::of(&self.path(name)).map(|identity| identity.0)
    }

    /// The other side has the file that was `identity`.
    pub(crate) fn sent(&self, name: &str, identity: &str) -> io::Result<()> {
        if self.identity(name)? != identity {
            return Ok(());
        }
        let mut marker = tempfile::Builder::new().prefix(".marker-").tempfile_in(&self.dir)?;
        writeln!(marker, "{identity}")?;
        marker.persist(self.dir.join(name)).map(drop).map_err(|e| e.error)
    }
}
