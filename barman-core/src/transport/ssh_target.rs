//! [`SshTarget`]: what a configured `ssh_command` asks for, when a library can do the same; else the reason why only
//! the program will do. Pure.

use std::time::Duration;

use camino::Utf8PathBuf;

use super::command::split;

/// Where to connect and how, as far as libssh2 can honour it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// The login name; `None` means that of the local user.
    pub user: Option<String>,
    /// The name or address that is connected to.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Private keys to try, in order. A leading `~/` is not expanded yet. Empty means the default ones.
    pub identities: Vec<Utf8PathBuf>,
    /// Whether only `identities` are tried, not the other keys of an agent.
    pub identities_only: bool,
    /// Files of known host keys; empty means the default ones.
    pub known_hosts: Vec<Utf8PathBuf>,
    /// What to do about a host whose key is not known.
    pub new_hosts: NewHosts,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// After how much silence the server is asked whether it is still there.
    pub alive_interval: Duration,
    /// Addresses of this family only.
    pub family: Option<Family>,
}

/// What happens with a host whose key is not known. A changed key is refused in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewHosts {
    /// Its key is noted and believed (`accept-new`, and `no` or `off`).
    Accept,
    /// It is refused (`yes`, and `ask`, since nobody is asked).
    Refuse,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `-4`
    V4,
    /// `-6`
    V6,
}

/// Why a command needs the `ssh` program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NeedsProgram {
    /// It is not a command line.
    #[error(transparent)]
    Split(#[from] super::SplitError),
    /// Another program than `ssh` is named.
    #[error("{0:?} is not ssh")]
    OtherProgram(String),
    /// An option that only the program honours.
    #[error("the option {0:?} is honoured by the ssh program only")]
    Option(String),
    /// A value that cannot be used.
    #[error("{value:?} is no value for the option {option:?} that is understood")]
    Value {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
    /// No host is named.
    #[error("no host is named")]
    NoHost,
    /// A command of the host is part of it.
    #[error("the command goes on behind the host, with {0:?}")]
    Command(String),
}

/// Flags without a value that change nothing about what is transferred, or ask for what is the case anyway: no
/// forwarding, no terminal, quiet, verbose.
const HARMLESS_FLAGS: &str = "aknqTvx";

/// Flags with a value (ssh(1)); where not honoured, the reason names them.
const FLAGS_WITH_VALUE: &str = "BbcDEeFIiJLlmOoPpQRSWw";

impl SshTarget {
    /// Reads a command such as `ssh -p 2222 -i key -o Option=value user@host`. Options may stand before and behind the
    /// host, as for OpenSSH.
    ///
    /// ```
    /// use barman_core::transport::SshTarget;
    /// let target = SshTarget::parse("ssh -p 2222 postgres@pg").unwrap();
    /// assert_eq!((target.host.as_str(), target.port), ("pg", 2222));
    /// assert!(SshTarget::parse("ssh -J bastion postgres@pg").is_err());
    /// ```
    pub fn parse(ssh_command: &str) -> Result<Self, NeedsProgram> {
        let words = split(ssh_command)?;
        let mut words = words.into_iter();
        let program = words.next().unwrap_or_default();
        if program.rsplit('/').next() != Some("ssh") {
            return Err(NeedsProgram::OtherProgram(program));
        }
        let mut reading = Reading::default();
        let mut only_operands = false;
        while let Some(word) = words.next() {
            match word.strip_prefix('-').filter(|rest| !rest.is_empty() && !only_operands) {
                Some("-") => only_operands = true,
                Some(flags) => reading.flags(flags, &mut words)?,
                None if reading.host.is_none() => reading.destination(&word)?,
                None => return Err(NeedsProgram::Command(word)),
            }
        }
        reading.finish()
    }
}

/// Values found so far; for ssh the first one holds.
#[derive(Default)]
struct Reading {
    user: Option<String>,
    host: Option<String>,
    host_name: Option<String>,
    port: Option<u16>,
    identities: Vec<Utf8PathBuf>,
    identities_only: Option<bool>,
    known_hosts: Option<Vec<Utf8PathBuf>>,
    new_hosts: Option<NewHosts>,
    connect_timeout: Option<u64>,
    alive_interval: Option<u64>,
    family: Option<Family>,
}

impl Reading {
    fn flags(&mut self, flags: &str, words: &mut impl Iterator<Item = String>) -> Result<(), NeedsProgram> {
        for (at, flag) in flags.char_indices() {
            let option = format!("-{flag}");
            if FLAGS_WITH_VALUE.contains(flag) {
                let rest = flags.get(at + flag.len_utf8()..).filter(|rest| !rest.is_empty());
                let value = rest.map(str::to_owned).or_else(|| words.next()).unwrap_or_default();
                return self.flag(flag, option, value);
            }
            match flag {
                '4' => self.family = Some(Family::V4),
                '6' => self.family = Some(Family::V6),
                _ if HARMLESS_FLAGS.contains(flag) => {}
                _ => return Err(NeedsProgram::Option(option)),
            }
        }
        Ok(())
    }

    fn flag(&mut self, flag: char, option: String, value: String) -> Result<(), NeedsProgram> {
        if value.is_empty() {
            return Err(NeedsProgram::Value { option, value });
        }
        match flag {
            'p' => first(&mut self.port, number(&option, value)?),
            'l' => first(&mut self.user, value),
            'i' => self.identities.push(path(&option, value)?),
            // No configuration file is what a library has anyway.
            'F' if matches!(value.as_str(), "none" | "/dev/null") => {}
            'o' => {
                let cut = value.find(['=', ' ', '\t']).unwrap_or(value.len());
                let (key, rest) = value.split_at(cut);
                let rest = rest.trim_start_matches([' ', '\t']);
                let rest = rest.strip_prefix('=').unwrap_or(rest).trim_matches([' ', '\t']);
                self.option(key, unquoted(rest))?;
            }
            _ => return Err(NeedsProgram::Option(option)),
        }
        Ok(())
    }

    fn option(&mut self, key: &str, value: &str) -> Result<(), NeedsProgram> {
        let option = format!("-o {key}");
        let bad = || NeedsProgram::Value { option: option.clone(), value: value.to_owned() };
        if value.is_empty() {
            return Err(bad());
        }
        match key.to_ascii_lowercase().as_str() {
            "user" => first(&mut self.user, value.to_owned()),
            "hostname" if !value.contains('%') => first(&mut self.host_name, value.to_owned()),
            "port" => first(&mut self.port, number(&option, value.to_owned())?),
            "identityfile" => self.identities.push(path(&option, value.to_owned())?),
            "identitiesonly" => first(&mut self.identities_only, switch(value).ok_or_else(bad)?),
            "userknownhostsfile" => {
                let files: Result<Vec<_>, _> =
                    value.split_whitespace().map(|f| path(&option, f.to_owned())).collect();
                first(&mut self.known_hosts, files?);
            }
            "stricthostkeychecking" => {
                let policy = match value.to_ascii_lowercase().as_str() {
                    "accept-new" | "no" | "off" | "false" => NewHosts::Accept,
                    "yes" | "true" | "ask" => NewHosts::Refuse,
                    _ => return Err(bad()),
                };
                first(&mut self.new_hosts, policy);
            }
            "connecttimeout" => first(&mut self.connect_timeout, value.parse().map_err(|_| bad())?),
            "serveraliveinterval" => first(&mut self.alive_interval, value.parse().map_err(|_| bad())?),
            "addressfamily" => match value.to_ascii_lowercase().as_str() {
                "inet" => self.family = Some(Family::V4),
                "inet6" => self.family = Some(Family::V6),
                "any" => {}
                _ => return Err(bad()),
            },
            // Nothing is ever asked, and nothing but keys is offered.
            "batchmode"
            | "passwordauthentication"
            | "kbdinteractiveauthentication"
            | "numberofpasswordprompts"
            | "serveralivecountmax"
            | "tcpkeepalive"
            | "loglevel"
            | "requesttty"
            | "escapechar"
            | "forwardagent"
            | "forwardx11"
            | "connectionattempts" => {}
            "compression" | "controlmaster" if matches!(value, "no") => {}
            "controlpath" | "proxycommand" | "proxyjump" if value == "none" => {}
            _ => return Err(NeedsProgram::Option(option)),
        }
        Ok(())
    }

    fn destination(&mut self, word: &str) -> Result<(), NeedsProgram> {
        let bare = word.strip_prefix("ssh://");
        // The last @, since a login name may hold one.
        let (user, host) = match bare.unwrap_or(word).rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, bare.unwrap_or(word)),
        };
        let mut host = host;
        if bare.is_some() {
            host = host.strip_suffix('/').unwrap_or(host);
            if let Some((name, port)) =
                host.rsplit_once(':').filter(|(name, _)| !name.contains(':') || name.ends_with(']'))
            {
                first(&mut self.port, number("ssh://", port.to_owned())?);
                host = name;
            }
            host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        }
        if host.is_empty() {
            return Err(NeedsProgram::NoHost);
        }
        if let Some(user) = user {
            first(&mut self.user, user.to_owned());
        }
        self.host = Some(host.to_owned());
        Ok(())
    }

    fn finish(self) -> Result<SshTarget, NeedsProgram> {
        let host = self.host.ok_or(NeedsProgram::NoHost)?;
        Ok(SshTarget {
            user: self.user,
            host: self.host_name.unwrap_or(host),
            port: self.port.unwrap_or(22),
            identities: self.identities,
            identities_only: self.identities_only.unwrap_or(false),
            known_hosts: self.known_hosts.unwrap_or_default(),
            new_hosts: self.new_hosts.unwrap_or(NewHosts::Accept),
            connect_timeout: Duration::from_secs(self.connect_timeout.filter(|s| *s > 0).unwrap_or(30)),
            alive_interval: Duration::from_secs(self.alive_interval.filter(|s| *s > 0).unwrap_or(20)),
            family: self.family,
        })
    }
}

fn first<T>(place: &mut Option<T>, value: T) {
    place.get_or_insert(value);
}

fn number(option: &str, value: String) -> Result<u16, NeedsProgram> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(NeedsProgram::Value { option: option.to_owned(), value }),
    }
}

/// A file name; tokens and variables are expanded by the program only.
fn path(option: &str, value: String) -> Result<Utf8PathBuf, NeedsProgram> {
    let other_home = value.starts_with('~') && !value.starts_with("~/");
    if value.contains(['%', '$']) || other_home {
        return Err(NeedsProgram::Value { option: option.to_owned(), value });
    }
    Ok(value.into())
}

fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" => Some(true),
        "no" | "false" => Some(false),
        _ => None,
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> SshTarget {
        SshTarget::parse(line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    #[test]
    fn places_of_the_user_the_host_and_the_port() {
        for (line, user, host, port) in [
            ("ssh pg", None, "pg", 22),
            ("ssh postgres@pg", Some("postgres"), "pg", 22),
            ("/usr/bin/ssh -p 2222 -l me pg", Some("me"), "pg", 2222),
            ("ssh pg -p2222 -qTx", None, "pg", 2222),
            ("ssh -l first second@pg", Some("first"), "pg", 22),
            ("ssh -oPort=7 -o 'User me' -p 8 pg", Some("me"), "pg", 7),
            ("ssh -o HostName=10.0.0.1 pg", None, "10.0.0.1", 22),
            ("ssh ssh://me@pg:2222", Some("me"), "pg", 2222),
            ("ssh ssh://[::1]:2222/", None, "::1", 2222),
            ("ssh me@::1", Some("me"), "::1", 22),
            ("ssh 'a@b@pg'", Some("a@b"), "pg", 22),
            ("ssh -- -odd", None, "-odd", 22),
        ] {
            let target = parse(line);
            assert_eq!(
                (target.user.as_deref(), target.host.as_str(), target.port),
                (user, host, port),
                "{line}"
            );
        }
    }

    #[test]
    fn options_that_a_library_can_honour() {
        let target = parse(
            "ssh -F none -i /k/one -o IdentityFile=\"~/two\" -o IdentitiesOnly=yes -o 'UserKnownHostsFile=/a /b' \
             -o StrictHostKeyChecking=yes -o StrictHostKeyChecking=no -o ConnectTimeout=5 -o BatchMode=yes -4 pg",
        );
        assert_eq!(target.identities, ["/k/one", "~/two"]);
        assert_eq!(target.known_hosts, ["/a", "/b"]);
        assert!(target.identities_only);
        assert_eq!(target.new_hosts, NewHosts::Refuse);
        assert_eq!(target.connect_timeout, Duration::from_secs(5));
        assert_eq!(target.family, Some(Family::V4));
        assert_eq!(parse("ssh pg").new_hosts, NewHosts::Accept);
    }

    #[test]
    fn what_needs_the_program_is_named() {
        for (line, part) in [
            ("ssh -J bastion pg", "-J"),
            ("ssh -o ProxyCommand='nc x 22' pg", "ProxyCommand"),
            ("ssh -A pg", "-A"),
            ("ssh -F /etc/my pg", "-F"),
            ("ssh -i %d/key pg", "%d/key"),
            ("ssh -i ~other/key pg", "~other/key"),
            ("ssh -p x pg", "\"x\""),
            ("ssh -p", "-p"),
            ("ssh", "no host"),
            ("ssh -p 22", "no host"),
            ("ssh pg sudo -u postgres", "sudo"),
            ("sshpass -p x ssh pg", "sshpass"),
            ("plink pg", "plink"),
            ("ssh 'pg", "quotation"),
            ("", "empty"),
        ] {
            let reason = SshTarget::parse(line).unwrap_err().to_string();
            assert!(reason.contains(part), "{line}: {reason}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_command_makes_it_panic(line in "(ssh )?[-a-zA-Z0-9@:/=\\[\\]'\" ]{0,40}") {
            let _ = SshTarget::parse(&line);
        }
    }
}
