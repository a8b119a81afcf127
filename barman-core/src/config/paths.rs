//! Directories that two options or two servers share by mistake.

use std::collections::BTreeMap;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};

use super::server::ServerConfig;
use crate::io::{Disk, FileKind};
use crate::model::ServerName;

/// How many symbolic links a path may lead through before it is taken as it is.
const MAX_LINKS: u32 = 40;

/// The path with all symbolic links followed and `.` and `..` resolved, relative to `cwd`; what does not exist, or may
/// not be looked at, is kept as it is.
pub(crate) fn real_path(disk: &dyn Disk, cwd: &Utf8Path, path: &Utf8Path) -> Utf8PathBuf {
    let mut links = 0;
    let mut resolved = Utf8PathBuf::from("/");
    let mut pending: Vec<String> = parts(&cwd.join(path));
    while let Some(part) = pending.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        let is_link = disk.lstat(&next).is_ok_and(|stat| stat.kind == FileKind::Symlink);
        let target = if is_link && links < MAX_LINKS { disk.read_link(&next).ok() } else { None };
        let Some(target) = target else {
            resolved = next;
            continue;
        };
        links += 1;
        if target.is_absolute() {
            resolved = Utf8PathBuf::from("/");
        }
        pending.extend(parts(&target));
    }
    resolved
}

/// The components to walk, last first.
fn parts(path: &Utf8Path) -> Vec<String> {
    let names = path.components().filter_map(|component| match component {
        Utf8Component::Normal(name) => Some(name.to_owned()),
        Utf8Component::ParentDir => Some("..".to_owned()),
        _ => None,
    });
    let mut names: Vec<String> = names.collect();
    names.reverse();
    names
}

/// Finds shared directories. Those within one server become its messages; those between servers are given back, in
/// Barman's words and order.
pub(crate) fn conflicts(
    servers: &mut BTreeMap<ServerName, ServerConfig>,
    real: &dyn Fn(&Utf8Path) -> Utf8PathBuf,
) -> Vec<String> {
    let mut owners: BTreeMap<Utf8PathBuf, (&'static str, ServerName)> = BTreeMap::new();
    let mut between = Vec::new();
    for (name, server) in servers {
        for (key, path) in server.directories() {
            if key == "meta_directory" {
                continue;
            }
            let real = real(&path);
            let Some((other_key, other)) = owners.get(&real) else {
                owners.insert(real, (key, name.clone()));
                continue;
            };
            let link =
                if real.as_str() == path.as_str() { String::new() } else { format!(" (symlink to: {real})") };
            let whose = if other == name { String::new() } else { format!(" for server '{name}'") };
            let text = format!(
                "Conflicting path: {key}={path}{link}{whose} conflicts with '{other_key}' for server '{other}'"
            );
            if other == name { server.messages.push(text) } else { between.push(text) }
        }
    }
    between
}
