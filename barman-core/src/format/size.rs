//! Sizes in the configuration: `1Gi`, `500 M`, `1024`.

use crate::model::ParseError;

/// Reads a number of bytes with an optional suffix: `k` 10³, `Ki` 2¹⁰, `M`, `Mi`, `G`, `Gi`, `T`, `Ti`, upper and
/// lower case as here, with or without blanks before it. No sign, no decimals, no `B`.
///
/// # Errors
/// Any other text, and what does not fit into 64 bits. Barman's words for it are `Invalid value for a number X`.
pub fn parse(text: &str) -> Result<u64, ParseError> {
    let fail = || ParseError::new("size", text);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let factor: u64 = match suffix.trim() {
        "" => 1,
        "k" => 1_000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        "Gi" => 1 << 30,
        "T" => 1_000_000_000_000,
        "Ti" => 1 << 40,
        _ => return Err(fail()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("1k", 1_000),
            ("1Ki", 1 << 10),
            ("2M", 2_000_000),
            ("2 Mi", 2 << 20),
            ("3G  ", 3_000_000_000),
            ("1Gi", 1 << 30),
            ("4T", 4_000_000_000_000),
            ("4\tTi", 4 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            " 1",
            "k",
            "-1",
            "+1",
            "1.5G",
            "1K",
            "1ki",
            "1g",
            "1GB",
            "1GiB",
            "1 G i",
            "99999999999999999999",
            "99999999Ti",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
