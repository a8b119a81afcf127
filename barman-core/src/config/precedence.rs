//! From the merged sections to the values of one server: its section, then `[barman]`, then the default.

use std::collections::BTreeMap;

use super::late::LATE;
use super::load::Notice;
use super::schema::{OptionSpec, SERVER_OPTIONS, ServerOptions};
use super::server::ServerConfig;
use super::types::At;
use super::value::Value;
use crate::format::ini::{Item, Source};
use crate::model::ServerName;

/// A value without its quotes: one pair of equal outer quotes goes, and the bare word `None` is the empty text.
pub(crate) fn unquote(value: &str) -> &str {
    if value == "None" {
        return "";
    }
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('\'').or_else(|| inner('"')).unwrap_or(value)
}

pub(crate) fn find<'a>(items: &'a [Item], name: &str) -> Option<&'a Item> {
    items.iter().find(|item| item.name == name)
}

/// The warning for a value that is refused.
pub(crate) fn ignored(value: &str, at: At<'_>, reason: &str) -> Notice {
    let At { key, place } = at;
    Notice::warning(format!(
        "Ignoring invalid configuration value '{value}' for key {key} in {place}: {reason}"
    ))
}

/// Puts a server together from its section and `[barman]`; warnings about refused values are added to `notices`.
pub(crate) fn resolve(
    name: ServerName,
    section: &[Item],
    barman: &[Item],
    barman_home: &str,
    notices: &mut Vec<Notice>,
) -> ServerConfig {
    let place = format!("[{name}] section");
    let mut server = ServerConfig {
        name,
        options: ServerOptions::blank(),
        active_model: None,
        messages: Vec::new(),
        notices: Vec::new(),
        sources: BTreeMap::new(),
        written: BTreeMap::new(),
        late: BTreeMap::new(),
    };
    // Defaults refer to options that come before them in the table, but for xlogdb_directory, which comes last.
    for spec in SERVER_OPTIONS {
        let own =
            find(section, spec.name).filter(|_| spec.name != "disabled").map(|item| (item, place.as_str()));
        let inherited =
            find(barman, spec.name).filter(|_| spec.inherited).map(|item| (item, "[barman] section"));
        let taken = own.into_iter().chain(inherited).any(|(item, place)| {
            let text = unquote(&item.value);
            let at = At { key: spec.name, place };
            if text.is_empty() && spec.empty_unsets && !spec.optional {
                return false;
            }
            match server.options.set(text, at) {
                Ok(()) => {
                    note(&mut server, spec, text, Some(&item.source));
                    true
                }
                Err(reason) => {
                    notices.push(ignored(text, at, &reason));
                    false
                }
            }
        });
        // Barman names as the source whatever is written, heeded or not, inherited or not.
        if let Some(item) = find(section, spec.name).or_else(|| find(barman, spec.name)) {
            server.written.insert(spec.name, item.source.clone());
        }
        if taken {
            continue;
        }
        let Some(default) = spec.default.and_then(|template| expand(template, barman_home, &server)) else {
            continue;
        };
        let at = At { key: spec.name, place: "DEFAULTS" };
        match server.options.set(&default, at) {
            Ok(()) => note(&mut server, spec, &default, None),
            Err(reason) => notices.push(ignored(&default, at, &reason)),
        }
    }
    server
}

/// Remembers where an option's value comes from.
pub(crate) fn note(server: &mut ServerConfig, spec: &OptionSpec, text: &str, source: Option<&Source>) {
    // The table's names live as long as the program.
    let Some(name) = SERVER_OPTIONS.iter().map(|known| known.name).find(|known| *known == spec.name) else {
        return;
    };
    match source {
        Some(source) => {
            server.sources.insert(name, source.clone());
            server.written.insert(name, source.clone());
        }
        None => {
            server.sources.remove(name);
        }
    }
    if LATE.contains(&name) {
        let unset = text.is_empty() && spec.empty_unsets;
        server.late.insert(name, (!unset).then(|| text.to_owned()));
    }
}

/// A default with its references filled in; `None` if it refers to something that is not set.
fn expand(template: &str, barman_home: &str, server: &ServerConfig) -> Option<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("%(") {
        let (name, after) = after.split_once(")s")?;
        out.push_str(before);
        match name {
            "barman_home" => out.push_str(barman_home),
            "name" => out.push_str(server.name.as_str()),
            option => match server.options.get(option)? {
                Value::None => return None,
                value => out.push_str(&value.to_string()),
            },
        }
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}
