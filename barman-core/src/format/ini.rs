//! INI text as Python's `configparser` reads it (`strict=False`, basic interpolation), with the line of every key.
//! Here is the dialect only: which sections and options mean something is the business of room `config`.
//!
//! Source of the facts: the chapter `configparser` of Python's library reference; `tests/config_ini.rs` compares
//! this reader with the real module on random texts.

use std::collections::BTreeMap;

use super::pyliteral::repr_str;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The file, as it was named when it was read.
    pub file: String,
    /// The line of the key, from 1.
    pub line: usize,
}

/// Why a text is not configuration. Display is the sentence that Python prints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IniError {
    /// A line with content stands before the first `[section]`.
    #[error("File contains no section headers.\nfile: {}, line: {line}\n{}", repr_str(.file), repr_str(.text))]
    NoSectionHeader {
        /// The file.
        file: String,
        /// Its line, from 1.
        line: usize,
        /// The line with its end.
        text: String,
    },
    /// Lines that are neither a section header nor `key = value`; all of them are named at once.
    #[error("Source contains parsing errors: {}{}", repr_str(.file), bad_lines(.lines))]
    BadLines {
        /// The file.
        file: String,
        /// Line number and line, ends included.
        lines: Vec<(usize, String)>,
    },
    /// `%(key)s` names a key that the section does not have.
    #[error(
        "Bad value substitution: option {} in section {} contains an interpolation key {} which is not a valid option name. Raw value: {}",
        repr_str(.option), repr_str(.section), repr_str(.key), repr_str(.raw)
    )]
    UnknownReference {
        /// The option whose value is at fault.
        option: String,
        /// Its section.
        section: String,
        /// The key that is not there.
        key: String,
        /// The value as written.
        raw: String,
    },
    /// A `%` that is followed by neither `%` nor `(`.
    #[error("'%' must be followed by '%' or '(', found: {}", repr_str(.rest))]
    StrayPercent {
        /// The value from the sign on.
        rest: String,
    },
    /// `%(` without `)s`.
    #[error("bad interpolation variable reference {}", repr_str(.rest))]
    BadReference {
        /// The value from the sign on.
        rest: String,
    },
    /// References that lead to each other, or a chain of more than ten.
    #[error(
        "Recursion limit exceeded in value substitution: option {} in section {} contains an interpolation key which cannot be substituted in 10 steps. Raw value: {}",
        repr_str(.option), repr_str(.section), repr_str(.raw)
    )]
    TooDeep {
        /// The option whose value is at fault.
        option: String,
        /// Its section.
        section: String,
        /// The value that was reached at the limit.
        raw: String,
    },
    /// After the first pass a lone `%` is left: it was written `%%` where Barman's second pass needs `%%%%`.
    #[error("invalid interpolation syntax in {} at position {position}", repr_str(.value))]
    LonePercent {
        /// The value after the first pass.
        value: String,
        /// Where Python sees the sign: an index into the value without its well-formed references.
        position: usize,
    },
}

fn bad_lines(lines: &[(usize, String)]) -> String {
    lines.iter().map(|(number, line)| format!("\n\t[line {number:>2}]: {}", repr_str(line))).collect()
}

/// White space in Python's sense: Unicode's, and the four separators 1C to 1F.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn strip(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// A key with its raw value (before interpolation) and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key, in lower case.
    pub name: String,
    /// The value, continuation lines joined by line feeds.
    pub raw: String,
    /// The line of the key (of the last one, where it is repeated), from 1.
    pub line: usize,
}

/// The keys of a section, in the order of their first appearance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// The keys in order.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    /// The key of that name (lower case).
    pub fn get(&self, name: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.name == name)
    }

    fn put(&mut self, key: Key) -> usize {
        match self.0.iter().position(|known| known.name == key.name) {
            Some(at) => {
                self.0[at] = key;
                at
            }
            None => {
                self.0.push(key);
                self.0.len() - 1
            }
        }
    }
}

/// One file, parsed; nothing is interpolated yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IniFile {
    name: String,
    defaults: Keys,
    sections: Vec<(String, Keys)>,
}

/// Which section the parser is in.
#[derive(Clone, Copy)]
enum Place {
    Nowhere,
    Defaults,
    Section(usize),
}

impl IniFile {
    /// Parses `text`; `name` is what errors and sources call the file.
    ///
    /// # Errors
    /// [`IniError::NoSectionHeader`] at once, [`IniError::BadLines`] for all bad lines together at the end.
    pub fn parse(name: &str, text: &str) -> Result<Self, IniError> {
        let mut file = Self { name: name.to_owned(), defaults: Keys::default(), sections: Vec::new() };
        let mut place = Place::Nowhere;
        let mut open: Option<usize> = None; // the key that a deeper line continues
        let mut indent = 0;
        let mut bad = Vec::new();
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let number = index + 1;
            let value = strip(line);
            if value.starts_with(['#', ';']) {
                continue;
            }
            if value.is_empty() {
                // A blank line belongs to the value before it, if more of that value follows.
                if let Some(key) = open.and_then(|at| file.keys_mut(place)?.0.get_mut(at)) {
                    key.raw.push('\n');
                }
                continue;
            }
            let depth = line.chars().take_while(|c| is_blank(*c)).count();
            if depth > indent
                && let Some(key) = open.and_then(|at| file.keys_mut(place)?.0.get_mut(at))
            {
                key.raw.push('\n');
                key.raw.push_str(value);
                continue;
            }
            indent = depth;
            if let Some(header) = header(value) {
                place = file.enter(header);
                open = None;
            } else if let Place::Nowhere = place {
                return Err(IniError::NoSectionHeader {
                    file: name.to_owned(),
                    line: number,
                    text: line.to_owned(),
                });
            } else if let Some((key, raw)) = key_and_value(value) {
                if key.is_empty() {
                    bad.push((number, line.to_owned()));
                    open = None;
                    continue;
                }
                let key = Key { name: key.to_lowercase(), raw: raw.to_owned(), line: number };
                open = file.keys_mut(place).map(|keys| keys.put(key));
            } else {
                bad.push((number, line.to_owned()));
            }
        }
        if !bad.is_empty() {
            return Err(IniError::BadLines { file: name.to_owned(), lines: bad });
        }
        for keys in std::iter::once(&mut file.defaults).chain(file.sections.iter_mut().map(|(_, keys)| keys))
        {
            for key in &mut keys.0 {
                key.raw.truncate(key.raw.trim_end_matches(is_blank).len());
            }
        }
        Ok(file)
    }

    /// The name given to [`parse`](Self::parse).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sections in the order of their first appearance, without `[DEFAULT]`.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Keys)> {
        self.sections.iter().map(|(name, keys)| (name.as_str(), keys))
    }

    /// The keys of `[DEFAULT]`.
    pub fn defaults(&self) -> &Keys {
        &self.defaults
    }

    /// The keys of a section followed by those of `[DEFAULT]` that it does not have itself, values interpolated once
    /// and fit for the second time.
    ///
    /// # Errors
    /// The interpolation errors of [`IniError`].
    pub fn items(&self, section: &str) -> Result<Vec<Key>, IniError> {
        let Some((_, own)) = self.sections.iter().find(|(name, _)| name == section) else {
            return Ok(Vec::new());
        };
        let inherited = self.defaults.iter().filter(|key| own.get(&key.name).is_none());
        let all: Vec<&Key> = own.iter().chain(inherited).collect();
        let map: BTreeMap<&str, &str> = all.iter().map(|k| (k.name.as_str(), k.raw.as_str())).collect();
        let value = |key: &&Key| {
            let raw = interpolate(section, &key.name, &map)?;
            storable(&raw)?;
            Ok(Key { raw, ..(*key).clone() })
        };
        all.iter().map(value).collect()
    }

    fn enter(&mut self, header: &str) -> Place {
        if header == "DEFAULT" {
            return Place::Defaults;
        }
        let known = self.sections.iter().position(|(name, _)| name == header);
        Place::Section(known.unwrap_or_else(|| {
            self.sections.push((header.to_owned(), Keys::default()));
            self.sections.len() - 1
        }))
    }

    fn keys_mut(&mut self, place: Place) -> Option<&mut Keys> {
        match place {
            Place::Nowhere => None,
            Place::Defaults => Some(&mut self.defaults),
            Place::Section(at) => self.sections.get_mut(at).map(|(_, keys)| keys),
        }
    }
}

/// The name in `[name]`: up to the last bracket; what follows it is ignored.
fn header(value: &str) -> Option<&str> {
    let rest = value.strip_prefix('[')?;
    let end = rest.rfind(']')?;
    (end > 0).then(|| &rest[..end])
}

fn key_and_value(value: &str) -> Option<(&str, &str)> {
    let at = value.find(['=', ':'])?;
    Some((strip(&value[..at]), strip(&value[at + 1..])))
}

/// Resolves `%(key)s` and `%%` in the value that `map` has for `option`.
fn interpolate(section: &str, option: &str, map: &BTreeMap<&str, &str>) -> Result<String, IniError> {
    let raw = map.get(option).copied().unwrap_or_default();
    let mut out = String::with_capacity(raw.len());
    Interpolation { section, option, raw, map }.expand(raw, 1, &mut out)?;
    Ok(out)
}

struct Interpolation<'a> {
    section: &'a str,
    option: &'a str,
    /// The option's own value, which errors quote also when the fault is in a value that it refers to.
    raw: &'a str,
    map: &'a BTreeMap<&'a str, &'a str>,
}

impl Interpolation<'_> {
    fn expand(&self, text: &str, depth: u32, out: &mut String) -> Result<(), IniError> {
        let option = || self.option.to_owned();
        let section = || self.section.to_owned();
        if depth > 10 {
            return Err(IniError::TooDeep { option: option(), section: section(), raw: self.raw.to_owned() });
        }
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("%%") {
                out.push('%');
                rest = after;
                continue;
            }
            if !rest.starts_with("%(") {
                return Err(IniError::StrayPercent { rest: rest.to_owned() });
            }
            let Some((name, after)) = reference(rest) else {
                return Err(IniError::BadReference { rest: rest.to_owned() });
            };
            let key = name.to_lowercase();
            let Some(value) = self.map.get(key.as_str()) else {
                return Err(IniError::UnknownReference {
                    option: option(),
                    section: section(),
                    key,
                    raw: self.raw.to_owned(),
                });
            };
            if value.contains('%') {
                self.expand(value, depth + 1, out)?;
            } else {
                out.push_str(value);
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(())
    }
}

/// Splits `%(name)s…` into the name and what follows.
fn reference(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix("%(")?;
    let end = inner.find(')')?;
    let after = inner[end + 1..].strip_prefix('s')?;
    (end > 0).then(|| (&inner[..end], after))
}

/// What Python demands of a value that is set into a parser: each `%` is doubled or begins a reference.
fn storable(value: &str) -> Result<(), IniError> {
    let doubled = value.replace("%%", "");
    let mut left = String::new();
    let mut rest = doubled.as_str();
    while let Some(at) = rest.find('%') {
        left.push_str(&rest[..at]);
        rest = &rest[at..];
        rest = match reference(rest) {
            Some((_, after)) => after,
            None => {
                left.push('%');
                &rest[1..]
            }
        };
    }
    match left.find('%') {
        None => Ok(()),
        Some(at) => {
            Err(IniError::LonePercent { value: value.to_owned(), position: left[..at].chars().count() })
        }
    }
}

/// Several files merged key by key, the later one winning, as Barman merges them: each value is interpolated within
/// its file when it is merged, and once more, within the merged section, when it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    sections: Vec<(String, Vec<(Key, String)>)>,
}

impl Merged {
    /// Takes the sections of one more file. A `[DEFAULT]` section of the file becomes keys of each of its sections.
    ///
    /// # Errors
    /// The interpolation errors of [`IniError`]; the values merged before it are then meaningless.
    pub fn merge(&mut self, file: &IniFile) -> Result<(), IniError> {
        for (section, _) in file.sections() {
            let known = self.sections.iter().position(|(name, _)| name == section);
            let at = known.unwrap_or_else(|| {
                self.sections.push((section.to_owned(), Vec::new()));
                self.sections.len() - 1
            });
            for key in file.items(section)? {
                let entries = &mut self.sections[at].1;
                let entry = (key, file.name.clone());
                match entries.iter_mut().find(|(known, _)| known.name == entry.0.name) {
                    Some(known) => *known = entry,
                    None => entries.push(entry),
                }
            }
        }
        Ok(())
    }

    /// The names of the sections, in the order of their first appearance.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.iter().map(|(name, _)| name.as_str())
    }

    /// All keys of a section with their final values and sources, in order; `None` if there is no such section.
    ///
    /// # Errors
    /// The interpolation errors of [`IniError`].
    pub fn items(&self, section: &str) -> Result<Option<Vec<Item>>, IniError> {
        let Some((_, entries)) = self.sections.iter().find(|(name, _)| name == section) else {
            return Ok(None);
        };
        let map: BTreeMap<&str, &str> =
            entries.iter().map(|(k, _)| (k.name.as_str(), k.raw.as_str())).collect();
        let item = |(key, file): &(Key, String)| {
            Ok(Item {
                name: key.name.clone(),
                value: interpolate(section, &key.name, &map)?,
                source: Source { file: file.clone(), line: key.line },
            })
        };
        entries.iter().map(item).collect::<Result<_, _>>().map(Some)
    }

    /// The keys and once-interpolated values of a section: what Barman compares to see whether a file changed it.
    pub fn snapshot(&self, section: &str) -> BTreeMap<String, String> {
        let entries =
            self.sections.iter().filter(|(name, _)| name == section).flat_map(|(_, entries)| entries);
        entries.map(|(key, _)| (key.name.clone(), key.raw.clone())).collect()
    }
}

/// A key of the merged configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key, in lower case.
    pub name: String,
    /// The value after both interpolations.
    pub value: String,
    /// Where it was written.
    pub source: Source,
}
