//! Connection strings as texts: whether one can be a connection string at all, which decides whether a server is
//! disabled, and what is shown of one. What they mean is read elsewhere.

/// Whether libpq's syntax takes the text: a URI, or `key = value` pairs with quotes and backslashes. Barman takes less:
/// no URI, and no quoted value with a blank.
pub(crate) fn is_connection_string(text: &str) -> bool {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return true;
    }
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((key, value)) = rest.split_once('=') else { return false };
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return false;
        }
        match value_end(value.trim_start()) {
            Some(after) => rest = after.trim_start(),
            None => return false,
        }
    }
    true
}

/// The text with what stands after `password=`, and between `:` and `@` of a URI, replaced by `*REDACTED*`. For
/// everything that is shown of a configuration (I32).
pub fn redacted(text: &str) -> String {
    const HIDDEN: &str = "*REDACTED*";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("password") {
        let value = &rest[at + "password".len()..];
        let (head, value) = match value.trim_start().strip_prefix('=') {
            Some(value) => (&rest[..rest.len() - value.len()], value),
            None => {
                out.push_str(&rest[..rest.len() - value.len()]);
                rest = value;
                continue;
            }
        };
        out.push_str(head);
        rest = value_end(value.trim_start()).unwrap_or("");
        if rest.len() < value.trim_start().len() {
            out.push_str(HIDDEN);
        }
    }
    out.push_str(rest);
    if let Some((before, after)) = out.split_once("://")
        && let Some((user, host)) =
            after.split(['/', ' ']).next().and_then(|authority| authority.rsplit_once('@'))
        && let Some((name, _)) = user.split_once(':')
    {
        let tail = &after[user.len() + 1 + host.len()..];
        return format!("{before}://{name}:{HIDDEN}@{host}{tail}");
    }
    out
}

/// What follows the value at the beginning of the text; `None` if its quote is never closed.
fn value_end(text: &str) -> Option<&str> {
    let quoted = text.starts_with('\'');
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '\'' if quoted => return Some(&text[at + 1..]),
            c if !quoted && c.is_whitespace() => return Some(&text[at..]),
            _ => {}
        }
    }
    (!quoted).then_some("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        for (text, shown) in [
            ("host=a password=xyz user=b", "host=a password=*REDACTED* user=b"),
            ("password=xyz", "password=*REDACTED*"),
            ("password = 'x y' host=a", "password =*REDACTED* host=a"),
            (r"password='x\' y' password=z", "password=*REDACTED* password=*REDACTED*"),
            ("password='open y", "password=*REDACTED*"),
            ("password", "password"),
            ("passwords are good", "passwords are good"),
            ("password=", "password="),
            ("host=a", "host=a"),
            (
                "postgresql://u:p@h:5432/db?password=x",
                "postgresql://u:*REDACTED*@h:5432/db?password=*REDACTED*",
            ),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("postgres://u:p@q@h", "postgres://u:*REDACTED*@h"),
            ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }

    #[test]
    fn texts() {
        for good in [
            "host=/tmp user=b",
            " host = a  user=b ",
            "password='a b' host=x",
            r"password='a\' b' host=x",
            r"password=a\ b",
            "host=",
            "postgresql://u@h/db",
            "postgres://",
            "",
            "options='-c a=b'",
        ] {
            assert!(is_connection_string(good), "{good}");
        }
        for bad in ["a", "a b", "host=a b", "=x", "host='a", "a b=c", "host=a user"] {
            assert!(!is_connection_string(bad), "{bad}");
        }
    }
}
