//! Recognition of encrypted files by their first bytes, without the `file` program.

/// So many first bytes are enough for [`is_encrypted`].
pub const START_LEN: usize = 4;

/// Whether these bytes begin an OpenPGP message as `gpg --encrypt` writes it: a public-key encrypted session key packet
/// (tag 1, RFC 9580 section 4.2), in the old or the new packet format. No WAL page, no text and no compressed file begins
/// so: the first byte has the highest bit set, and WAL pages of the versions with such a magic byte have a version byte of
/// 0xD0 or 0xD1 after it, which as a length and version here does not occur.
pub fn is_encrypted(first: &[u8]) -> bool {
    match *first {
        // Old format: length in one or two bytes, then version 3.
        [0x84, _, 3, ..] | [0x85, _, _, 3, ..] => true,
        // New format: one-byte length, or two bytes from 192.
        [0xC1, len, 3 | 6, ..] if len < 192 => true,
        [0xC1, len, _, 3 | 6, ..] if (192..224).contains(&len) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypted_files_are_not_pages() {
        assert!(is_encrypted(&[0x85, 0x01, 0x0c, 0x03, 0, 0, 0, 0, 0, 0]));
        assert!(is_encrypted(&[0x84, 0x5e, 0x03, 0, 0, 0, 0, 0, 0, 0]));
        for version_byte in [0xD0, 0xD1] {
            for magic in 0..=255 {
                assert!(!is_encrypted(&[magic, version_byte, 2, 0, 1, 0, 0, 0, 0, 0]), "{magic:02x}");
            }
        }
        assert!(!is_encrypted(b"1\t0/30000"));
        assert!(!is_encrypted(&[0x85, 0x01]));
    }
}
