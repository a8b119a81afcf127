//! Just enough of X.509 to judge a server certificate as libpq does: names, validity, keys and signatures. Bounds-checked;
//! nothing here decides whether to trust.
//!
//! Source: RFC 5280, section 4.1; ITU-T X.690 for the encoding.

use std::net::IpAddr;

use time::{Date, Month, PrimitiveDateTime, Time};

/// The parts of a certificate that matter here. Slices point into the certificate.
#[derive(Debug)]
pub(super) struct Certificate<'a> {
    /// 1 or 3.
    pub(super) version: u8,
    /// The signed part, header included.
    pub(super) signed: &'a [u8],
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    /// Seconds since 1970.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// The whole `SubjectPublicKeyInfo`, header included.
    pub(super) key_info: &'a [u8],
    /// The content of its algorithm identifier.
    pub(super) key_algorithm: &'a [u8],
    pub(super) key: &'a [u8],
    /// The content of the algorithm identifier of the signature.
    pub(super) signature_algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    /// The first common name of the subject.
    pub(super) common_name: Option<&'a [u8]>,
    pub(super) alternative_names: Vec<Name<'a>>,
    /// Basic constraints, if there are any: whether it is a certificate authority.
    pub(super) is_authority: Option<bool>,
}

/// A subject alternative name of a kind that libpq looks at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    Dns(&'a [u8]),
    Ip(IpAddr),
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// One element: its tag, its content, and all of it.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

/// A reader over the content of a constructed element.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Element<'a>> {
        let bytes = self.0;
        let tag = *bytes.first()?;
        let (header, length) = match *bytes.get(1)? {
            short @ 0..=0x7f => (2, usize::from(short)),
            long @ 0x81..=0x84 => {
                let count = usize::from(long & 0x7f);
                let digits = bytes.get(2..2 + count)?;
                (2 + count, digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)))
            }
            _ => return None,
        };
        let end = header.checked_add(length)?;
        let whole = bytes.get(..end)?;
        self.0 = bytes.get(end..)?;
        Some(Element { tag, content: whole.get(header..)?, whole })
    }

    fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    /// The next element if it has this tag; else nothing is taken.
    fn optional(&mut self, tag: u8) -> Option<Element<'a>> {
        if self.0.first() == Some(&tag) { self.next() } else { None }
    }
}

impl<'a> Certificate<'a> {
    /// Reads a certificate in DER; `None` when it is not one.
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(Reader(der).expect(SEQUENCE)?.content);
        let signed = outer.expect(SEQUENCE)?;
        let signature_algorithm = outer.expect(SEQUENCE)?.content;
        let signature = bits(&outer.expect(BIT_STRING)?)?;

        let mut body = Reader(signed.content);
        let version = match body.optional(0xa0) {
            None => 1,
            Some(version) => Reader(version.content).expect(INTEGER)?.content.last()?.checked_add(1)?,
        };
        body.expect(INTEGER)?;
        body.expect(SEQUENCE)?;
        let issuer = body.expect(SEQUENCE)?.content;
        let mut validity = Reader(body.expect(SEQUENCE)?.content);
        let not_before = instant(&validity.next()?)?;
        let not_after = instant(&validity.next()?)?;
        let subject = body.expect(SEQUENCE)?.content;
        let key_info = body.expect(SEQUENCE)?;
        let mut key_parts = Reader(key_info.content);
        let key_algorithm = key_parts.expect(SEQUENCE)?.content;
        let key = bits(&key_parts.expect(BIT_STRING)?)?;

        let mut certificate = Self {
            version,
            signed: signed.whole,
            issuer,
            subject,
            not_before,
            not_after,
            key_info: key_info.whole,
            key_algorithm,
            key,
            signature_algorithm,
            signature,
            common_name: common_name(subject),
            alternative_names: Vec::new(),
            is_authority: None,
        };
        while let Some(element) = body.next() {
            if element.tag == 0xa3 {
                certificate.extensions(Reader(element.content).expect(SEQUENCE)?.content)?;
            }
        }
        Some(certificate)
    }

    fn extensions(&mut self, content: &'a [u8]) -> Option<()> {
        let mut extensions = Reader(content);
        while let Some(extension) = extensions.next() {
            let mut parts = Reader(extension.content);
            let oid = parts.expect(OID)?.content;
            let _critical = parts.optional(0x01);
            let value = parts.expect(OCTET_STRING)?.content;
            match oid {
                SUBJECT_ALT_NAME => {
                    let mut names = Reader(Reader(value).expect(SEQUENCE)?.content);
                    while let Some(name) = names.next() {
                        self.alternative_names.extend(alternative_name(&name));
                    }
                }
                BASIC_CONSTRAINTS => {
                    let flag = Reader(Reader(value).expect(SEQUENCE)?.content).optional(0x01);
                    self.is_authority = Some(flag.is_some_and(|flag| flag.content != [0]));
                }
                _ => {}
            }
        }
        Some(())
    }
}

fn alternative_name<'a>(name: &Element<'a>) -> Option<Name<'a>> {
    match name.tag {
        0x82 => Some(Name::Dns(name.content)),
        0x87 => {
            let four = <[u8; 4]>::try_from(name.content).map(IpAddr::from).ok();
            four.or_else(|| <[u8; 16]>::try_from(name.content).map(IpAddr::from).ok()).map(Name::Ip)
        }
        _ => None,
    }
}

/// The first common name in a distinguished name.
fn common_name(subject: &[u8]) -> Option<&[u8]> {
    let mut sets = Reader(subject);
    while let Some(set) = sets.expect(SET) {
        let mut attributes = Reader(set.content);
        while let Some(attribute) = attributes.expect(SEQUENCE) {
            let mut parts = Reader(attribute.content);
            if parts.expect(OID)?.content == COMMON_NAME {
                return Some(parts.next()?.content);
            }
        }
    }
    None
}

/// The bytes of a bit string of whole bytes.
fn bits<'a>(element: &Element<'a>) -> Option<&'a [u8]> {
    element.content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bytes)| bytes)
}

/// `UTCTime` (two digits of the year) or `GeneralizedTime`, both in UTC with seconds.
fn instant(element: &Element<'_>) -> Option<i64> {
    let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    let (year, rest) = match element.tag {
        0x17 => {
            let year: i32 = text.get(..2)?.parse().ok()?;
            (if year >= 50 { 1900 + year } else { 2000 + year }, text.get(2..)?)
        }
        0x18 => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2).and_then(|digits| digits.parse::<u8>().ok());
    let date = Date::from_calendar_date(year, Month::try_from(part(0)?).ok()?, part(2)?).ok()?;
    let time = Time::from_hms(part(4)?, part(6)?, part(8)?).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, inner: Vec<u8>) {
            let _ = Certificate::read(&bytes);
            let mut nested = vec![0x30, 0x82];
            nested.extend(u16::try_from(inner.len()).unwrap_or(u16::MAX).to_be_bytes());
            nested.extend(&inner);
            let _ = Certificate::read(&nested);
        }
    }

    #[test]
    fn times() {
        let read = |tag, text: &str| instant(&Element { tag, content: text.as_bytes(), whole: &[] });
        assert_eq!(read(0x17, "700101000000Z"), Some(0));
        assert_eq!(read(0x17, "491231235959Z"), read(0x18, "20491231235959Z"));
        assert_eq!(read(0x18, "20260101000000Z"), Some(1_767_225_600));
        for bad in ["", "Z", "7001010000Z", "700101000000", "701301000000Z"] {
            assert_eq!(read(0x17, bad), None, "{bad}");
        }
    }
}
