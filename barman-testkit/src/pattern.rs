//! The patterns of the scripted servers.

/// Whether a text fits a pattern in which `*` stands for any text; white space around both is ignored.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.trim().split('*');
    let Some(mut rest) = text.trim().strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("SELECT 1", " SELECT 1 ", true),
            ("SELECT 1", "SELECT 12", false),
            ("SELECT *", "SELECT 12", true),
            ("*", "", true),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "a--c--b", false),
            ("a*b*c", "abcd", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
