//! Whether a text can be a connection string at all: the check by which a server is disabled. What it means is read
//! elsewhere.

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
