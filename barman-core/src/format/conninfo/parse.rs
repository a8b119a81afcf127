//! The two grammars of connection strings, as libpq's `fe-connect.c` reads them.

use super::{ConnInfo, ConnInfoError, is_space};

pub(super) fn parse(text: &str) -> Result<ConnInfo, ConnInfoError> {
    match ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) => uri(rest),
        None => pairs(text),
    }
}

fn pairs(text: &str) -> Result<ConnInfo, ConnInfoError> {
    let mut info = ConnInfo::default();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || is_space(c)).unwrap_or(rest.len());
        let (keyword, after) = rest.split_at(end);
        let Some(after) = after.trim_start_matches(is_space).strip_prefix('=') else {
            return Err(ConnInfoError::MissingEquals { word: shown(&info, keyword) });
        };
        let (value, after) = value(after.trim_start_matches(is_space))?;
        info.set(keyword, value)?;
        rest = after.trim_start_matches(is_space);
    }
    Ok(info)
}

/// A stray word may be the second half of a password with a blank in it: then it is not shown.
fn shown(info: &ConnInfo, word: &str) -> String {
    if info.password().is_some() { "…".to_owned() } else { word.to_owned() }
}

/// One value from the beginning of `text`, and what follows it.
fn value(text: &str) -> Result<(String, &str), ConnInfoError> {
    let (body, quote) = match text.strip_prefix('\'') {
        Some(body) => (body, true),
        None => (text, false),
    };
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quote => return Ok((value, &body[at + 1..])),
            c if !quote && is_space(c) => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quote { Err(ConnInfoError::UnterminatedQuote) } else { Ok((value, "")) }
}

fn uri(rest: &str) -> Result<ConnInfo, ConnInfoError> {
    let mut info = ConnInfo::default();
    let mut rest = rest;
    let authority_end = rest.find(['@', '/']).unwrap_or(rest.len());
    if rest[authority_end..].starts_with('@') {
        let (user, password) = match rest[..authority_end].split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (&rest[..authority_end], None),
        };
        set_if_given(&mut info, "user", user)?;
        set_if_given(&mut info, "password", password.unwrap_or_default())?;
        rest = &rest[authority_end + 1..];
    }

    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    loop {
        let (host, after) = host(rest)?;
        hosts.push(host);
        let after = match after.strip_prefix(':') {
            Some(port_on) => {
                let end = port_on.find(['/', '?', ',']).unwrap_or(port_on.len());
                ports.push(&port_on[..end]);
                &port_on[end..]
            }
            None => {
                ports.push("");
                after
            }
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => {
                rest = after;
                break;
            }
        }
    }
    set_list(&mut info, "host", &hosts)?;
    set_list(&mut info, "port", &ports)?;

    if let Some(path) = rest.strip_prefix('/') {
        let end = path.find('?').unwrap_or(path.len());
        set_if_given(&mut info, "dbname", &path[..end])?;
        rest = &path[end..];
    }
    if let Some(query) = rest.strip_prefix('?') {
        for parameter in query.split('&').filter(|p| !p.is_empty()) {
            query_parameter(&mut info, parameter)?;
        }
    }
    Ok(info)
}

/// One host from the beginning of a URI's host list, and what follows it.
fn host(text: &str) -> Result<(&str, &str), ConnInfoError> {
    let Some(address) = text.strip_prefix('[') else {
        let end = text.find([':', '/', '?', ',']).unwrap_or(text.len());
        return Ok(text.split_at(end));
    };
    let (address, after) =
        address.split_once(']').ok_or_else(|| bad("no \"]\" ends the IPv6 address of a host"))?;
    if address.is_empty() {
        return Err(bad("the IPv6 address of a host is empty"));
    }
    match after.chars().next() {
        None | Some(':' | '/' | '?' | ',') => Ok((address, after)),
        Some(c) => Err(bad(format!("unexpected character '{c}' after the host"))),
    }
}

fn set_if_given(info: &mut ConnInfo, keyword: &str, encoded: &str) -> Result<(), ConnInfoError> {
    if encoded.is_empty() { Ok(()) } else { info.set(keyword, decode(encoded)?) }
}

fn set_list(info: &mut ConnInfo, keyword: &str, items: &[&str]) -> Result<(), ConnInfoError> {
    if items.iter().all(|item| item.is_empty()) {
        return Ok(());
    }
    info.set(keyword, decode(&items.join(","))?)
}

fn query_parameter(info: &mut ConnInfo, parameter: &str) -> Result<(), ConnInfoError> {
    let Some((keyword, value)) = parameter.split_once('=') else {
        return Err(bad(format!("missing \"=\" after the query parameter \"{parameter}\"")));
    };
    if value.contains('=') {
        return Err(bad(format!("extra \"=\" in the value of the query parameter \"{keyword}\"")));
    }
    let (keyword, value) = (decode(keyword)?, decode(value)?);
    // The spelling of JDBC.
    if keyword == "ssl" && value == "true" {
        return info.set("sslmode", "require");
    }
    info.set(&keyword, value).map_err(|error| match error {
        ConnInfoError::UnknownKeyword { keyword } => bad(format!("invalid query parameter \"{keyword}\"")),
        other => other,
    })
}

fn decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(bad("a percent sign without two hexadecimal digits"));
        };
        if (high, low) == (0, 0) {
            return Err(bad("%00 stands in a value"));
        }
        bytes.push((high * 16 + low) as u8);
        rest = after.get(2..).unwrap_or_default();
    }
    String::from_utf8(bytes).map_err(|_| bad("a value is not UTF-8 after decoding"))
}

fn bad(reason: impl Into<String>) -> ConnInfoError {
    ConnInfoError::Uri { reason: reason.into() }
}
