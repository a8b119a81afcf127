//! Data pages: their checksum and the checks a server makes before it believes one (I12). Which files consist of pages
//! is said by [`super::relfile`].
//!
//! Source: `src/include/storage/checksum_impl.h`, `src/include/storage/bufpage.h` and `PageIsVerified` in
//! `src/backend/storage/page/bufpage.c` of PostgreSQL. Little-endian pages only.

use crate::model::Lsn;

/// How many sums run side by side (`N_SUMS`).
const LANES: usize = 32;
/// `FNV_PRIME`.
const PRIME: u32 = 16_777_619;
/// `checksumBaseOffsets`: where each sum starts.
#[rustfmt::skip]
const BASE: [u32; LANES] = [
    0x5B1F_36E9, 0xB852_5960, 0x02AB_50AA, 0x1DE6_6D2A, 0x79FF_467A, 0x9BB9_F8A3, 0x217E_7CD2, 0x83E1_3D2C,
    0xF8D4_474F, 0xE39E_B970, 0x42C6_AE16, 0x9932_16FA, 0x7B09_3B5D, 0x98DA_FF3C, 0xF718_902A, 0x0B1C_9CDB,
    0xE58F_764B, 0x1876_36BC, 0x5D7B_3BB1, 0xE73D_E7DE, 0x92BE_C979, 0xCCA6_C0B2, 0x304A_0979, 0x85AA_43D4,
    0x7831_25BB, 0x6CA8_EAA2, 0xE407_EAC6, 0x4B5C_FC3E, 0x9FBF_8C76, 0x15CA_20BE, 0xF2CA_9FD3, 0x959B_D756,
];
/// Bytes that one round takes.
const ROUND: usize = 4 * LANES;
/// `SizeOfPageHeaderData`.
const HEADER: usize = 24;
/// `PD_VALID_FLAG_BITS`.
const VALID_FLAGS: u16 = 0x0007;

/// What a look at one page gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCheck {
    /// `pd_lsn`: the end of the last WAL record that changed the page. A page newer than the start of a backup will be
    /// rewritten by replay, so a mismatch there proves nothing. [`Lsn::INVALID`] for a new page.
    pub lsn: Lsn,
    /// Whether the page can be believed.
    pub verdict: Verdict,
}

/// Whether a page can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Checksum (when asked for) and header are right.
    Ok,
    /// All zeros: allocated and not written yet, which is fine.
    New,
    /// The content does not give the stored checksum: torn, or damaged.
    ChecksumMismatch {
        /// `pd_checksum`.
        expected: u16,
        /// The checksum of the content.
        found: u16,
    },
    /// The checksum is right or was not asked for, but the header cannot be.
    BadHeader,
    /// The header says "new" (`pd_upper` is 0) but the page is not all zeros.
    NewButNotEmpty,
    /// The slice is no page: its length is not a power of two from 1 to 64 KiB.
    NoPage,
}

impl Verdict {
    /// Whether the page needs no further attention.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Ok | Self::New)
    }
}

/// Checks the page that is block number `block` of its relation fork (counted over all files of the fork). Its length
/// is the block size of the cluster. Without `checksums` only the header is checked.
pub fn check_page(page: &[u8], block: u32, checksums: bool) -> PageCheck {
    let header = page.first_chunk::<HEADER>().filter(|_| is_page_size(page.len()));
    let Some(header) = header else { return PageCheck { lsn: Lsn::INVALID, verdict: Verdict::NoPage } };
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 2)) << 16;
    let (lower, upper, special) = (half(12), half(14), half(16));
    if upper == 0 {
        let verdict = if page.iter().all(|b| *b == 0) { Verdict::New } else { Verdict::NewButNotEmpty };
        return PageCheck { lsn: Lsn::INVALID, verdict };
    }
    let lsn = Lsn::new(word(0) << 32 | word(4));
    if checksums {
        let (expected, found) = (half(8), checksum(page, block));
        if expected != found {
            return PageCheck { lsn, verdict: Verdict::ChecksumMismatch { expected, found } };
        }
    }
    let sane = half(10) & !VALID_FLAGS == 0
        && lower <= upper
        && upper <= special
        && usize::from(special) <= page.len()
        && special.is_multiple_of(8);
    PageCheck { lsn, verdict: if sane { Verdict::Ok } else { Verdict::BadHeader } }
}

/// The checksum of a page (`pg_checksum_page`): never 0. The stored checksum itself counts as zero, the block number is
/// mixed in, so that a page that strayed to another block is found out. Bytes behind the last multiple of 128 do not
/// occur in a page and are left out.
pub fn checksum(page: &[u8], block: u32) -> u16 {
    // Every x86-64 has vectors, but only with SSE4.1 or AVX2 can they multiply 32-bit lanes. What the processor offers is
    // asked at run time (once), which makes this three times as fast; elsewhere the same code runs as it is.
    pulp::Arch::new().dispatch(Checksum { page, block })
}

/// [`checksum`] in the form that is compiled once for each set of instructions. A closure would do as well if it were
/// always inlined into those versions; it is not.
struct Checksum<'p> {
    page: &'p [u8],
    block: u32,
}

impl pulp::WithSimd for Checksum<'_> {
    type Output = u16;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> u16 {
        checksum_body(self.page, self.block)
    }
}

#[inline(always)]
fn checksum_body(page: &[u8], block: u32) -> u16 {
    let mut sums = BASE;
    let (rounds, _) = page.as_chunks::<ROUND>();
    let Some((first, rest)) = rounds.split_first() else { return fold(sums, block) };
    let mut first = *first;
    // pd_checksum
    (first[8], first[9]) = (0, 0);
    round(&mut sums, &first);
    for bytes in rest {
        round(&mut sums, bytes);
    }
    round(&mut sums, &[0; ROUND]);
    round(&mut sums, &[0; ROUND]);
    fold(sums, block)
}

/// One step of all lanes. Lanes do not depend on each other, which is what lets the compiler use vector instructions.
#[inline(always)]
fn round(sums: &mut [u32; LANES], bytes: &[u8; ROUND]) {
    let (words, _) = bytes.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(PRIME) ^ mixed >> 17;
    }
}

#[inline(always)]
fn fold(sums: [u32; LANES], block: u32) -> u16 {
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    (folded % 65_535 + 1) as u16
}

fn is_page_size(length: usize) -> bool {
    length.is_power_of_two() && (1 << 10..=1 << 16).contains(&length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same algorithm written the slow, obvious way, straight from `checksum_impl.h`.
    fn slow(page: &[u8], block: u32) -> u16 {
        let mut page = page.to_vec();
        page[8..10].fill(0);
        page.extend([0; 2 * ROUND]);
        let mut result = 0;
        for (lane, base) in BASE.iter().enumerate() {
            let mut sum = *base;
            for row in 0..page.len() / ROUND {
                let at = row * ROUND + lane * 4;
                let value = u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
                let tmp = sum ^ value;
                sum = tmp.wrapping_mul(16_777_619) ^ (tmp >> 17);
            }
            result ^= sum;
        }
        ((result ^ block) % 65_535 + 1) as u16
    }

    fn page(seed: u8, block: u32) -> Vec<u8> {
        let mut page: Vec<u8> =
            (0..8192u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect();
        page[..8].copy_from_slice(&[1, 0, 0, 0, 0x28, 0, 0, 6]);
        page[10..20].copy_from_slice(&[4, 0, 40, 0, 0, 16, 0, 32, 4, 32]);
        let sum = checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_page_is_good_in_its_own_place_only() {
        let good = page(3, 131_080);
        let check = check_page(&good, 131_080, true);
        assert_eq!(check, PageCheck { lsn: "1/6000028".parse().unwrap(), verdict: Verdict::Ok });
        assert!(matches!(check_page(&good, 8, true).verdict, Verdict::ChecksumMismatch { .. }));
        assert_eq!(check_page(&good, 8, false).verdict, Verdict::Ok);
    }

    #[test]
    fn new_and_odd_pages() {
        assert_eq!(check_page(&[0; 8192], 5, true).verdict, Verdict::New);
        let mut almost = vec![0; 8192];
        almost[8191] = 1;
        assert_eq!(check_page(&almost, 5, true).verdict, Verdict::NewButNotEmpty);
        assert_eq!(check_page(&[0; 8191], 5, true).verdict, Verdict::NoPage);
        assert_eq!(check_page(&[], 5, true).verdict, Verdict::NoPage);
        let mut bad = page(3, 5);
        bad[12..14].copy_from_slice(&8000u16.to_le_bytes());
        assert_eq!(check_page(&bad, 5, false).verdict, Verdict::BadHeader);
        assert!(matches!(check_page(&bad, 5, true).verdict, Verdict::ChecksumMismatch { .. }));
    }

    #[test]
    fn short_rounds_agree() {
        assert_eq!(checksum(&[0; 8192], 0), slow(&[0; 8192], 0));
    }

    proptest! {
        #[test]
        fn the_fast_way_gives_what_the_slow_way_gives(bytes in proptest::collection::vec(any::<u8>(), 8192), block: u32) {
            prop_assert_eq!(checksum(&bytes, block), slow(&bytes, block));
        }

        #[test]
        fn a_processor_without_vectors_gives_the_same(bytes in proptest::collection::vec(any::<u8>(), 8192), block: u32) {
            prop_assert_eq!(checksum(&bytes, block), checksum_body(&bytes, block));
        }

        #[test]
        fn no_flipped_bit_goes_unseen(at in 0usize..8192, bit in 0u32..8, block: u32) {
            let mut bytes = page(7, block);
            bytes[at] ^= 1 << bit;
            prop_assert!(!check_page(&bytes, block, true).verdict.is_good());
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..3000), block: u32, checksums: bool) {
            let _ = check_page(&bytes, block, checksums);
            let _ = checksum(&bytes, block);
            let mut padded = bytes;
            padded.resize(padded.len().next_power_of_two(), 7);
            let _ = check_page(&padded, block, checksums);
        }
    }
}
