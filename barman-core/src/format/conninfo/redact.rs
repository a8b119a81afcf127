//! [`redact_conninfo`]: hiding secrets in a text as the user wrote it, also when it does not parse.

use super::{is_space, keywords};

const HIDDEN: &str = "*REDACTED*";

/// The text with every password in it replaced by `*REDACTED*`: `password=*REDACTED*` in keyword/value strings and URI
/// queries, `user:*REDACTED*@` in URIs. What cannot be parsed is searched all the same; everything else stays as it is.
pub fn redact_conninfo(text: &str) -> String {
    let scheme =
        ["postgresql://", "postgres://"].iter().find(|scheme| text.trim_start().starts_with(**scheme));
    match scheme {
        Some(_) => query(&userinfo(text)),
        None => pairs(text),
    }
}

fn userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    // A raw '@' in a password makes the URI invalid; then everything up to the last one is hidden.
    let end = rest
        .find(['/', '?'])
        .map_or_else(|| rest.rfind('@'), |stop| rest[..stop].rfind('@').or_else(|| rest.rfind('@')));
    let Some(at) = end else { return text.to_owned() };
    match rest[..at].split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{HIDDEN}{}", &rest[at..]),
        None => text.to_owned(),
    }
}

fn query(text: &str) -> String {
    let Some((before, parameters)) = text.split_once('?') else { return text.to_owned() };
    let shown: Vec<String> = parameters
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((keyword, _)) if keywords::is_secret(keyword) => format!("{keyword}={HIDDEN}"),
            _ => parameter.to_owned(),
        })
        .collect();
    format!("{before}?{}", shown.join("&"))
}

fn pairs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let Some((start, end)) = next_secret(rest) else {
            out.push_str(rest);
            return out;
        };
        out.push_str(&rest[..start]);
        out.push_str(HIDDEN);
        rest = &rest[end..];
    }
}

/// Where the next value of a secret key word begins and ends.
fn next_secret(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(found) = text[from..].find('=') {
        let equals = from + found;
        let keyword = text[..equals].trim_end_matches(is_space);
        let word = keyword.rsplit(|c: char| is_space(c) || c == '\'').next().unwrap_or_default();
        if keywords::is_secret(word) {
            let start = text.len() - text[equals + 1..].trim_start_matches(is_space).len();
            return Some((start, start + value_length(&text[start..])));
        }
        from = equals + 1;
    }
    None
}

fn value_length(text: &str) -> usize {
    let quote = text.starts_with('\'');
    let mut chars = text.char_indices().skip(usize::from(quote));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '\'' if quote => return at + 1,
            c if !quote && is_space(c) => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::redact_conninfo;

    #[test]
    fn hides_secrets_and_nothing_else() {
        for (text, expected) in [
            ("host=a user=b", "host=a user=b"),
            ("host=a password=x user=b", "host=a password=*REDACTED* user=b"),
            ("password = 'x y' user=b", "password = *REDACTED* user=b"),
            (r"password='it\'s' sslpassword=z", "password=*REDACTED* sslpassword=*REDACTED*"),
            ("password='open", "password=*REDACTED*"),
            ("host password=x", "host password=*REDACTED*"),
            ("postgresql://u:p@h/d", "postgresql://u:*REDACTED*@h/d"),
            ("postgresql://u:p@x@h/d", "postgresql://u:*REDACTED*@h/d"),
            ("postgresql://u:p/x@h/d", "postgresql://u:*REDACTED*@h/d"),
            ("postgresql://u@h/d?password=p&host=x", "postgresql://u@h/d?password=*REDACTED*&host=x"),
            ("postgresql://h", "postgresql://h"),
        ] {
            assert_eq!(redact_conninfo(text), expected);
        }
    }
}
