//! The checks that ask others: PostgreSQL, its primary, its host.

use super::{Server, ServerError};
use crate::backup::{BackupExecutor, CopyExecutor};
use crate::config::{BackupMethod, Operation, refusals};
use crate::ctx::Ctx;
use crate::model::{Check, Outcome};
use crate::pg::Session;

/// The oldest server that this program works with.
const OLDEST: u32 = 90_600;

impl Server {
    /// What PostgreSQL says of itself. Without a connection that is little.
    pub(super) fn live_checks(
        &self,
        session: &mut Result<Session, ServerError>,
        ctx: &Ctx<'_>,
    ) -> Vec<Check> {
        let mut checks = match session {
            Ok(live) => self.postgres(live),
            Err(error) => {
                ctx.debug(format!("PostgreSQL cannot be reached: {error}"));
                vec![Check::failed("PostgreSQL", "")]
            }
        };
        if self.streams_from_elsewhere() {
            checks.extend(self.streaming_elsewhere());
        } else {
            checks.extend(self.slot(session.as_mut().ok(), "replication slot"));
        }
        checks
    }

    /// As Barman: by the ordinary connection for WAL alone.
    fn streams_from_elsewhere(&self) -> bool {
        let options = &self.config.options;
        let ordinary = options.wal_conninfo.as_ref().or(options.wal_streaming_conninfo.as_ref());
        options.wal_streaming_conninfo.is_some() && ordinary != options.conninfo.as_ref()
    }

    fn postgres(&self, session: &mut Session) -> Vec<Check> {
        let version = session.version();
        if version.num() < OLDEST {
            let hint = format!("PostgreSQL server is too old ({version} < 9.6.0)");
            return vec![Check::ok("PostgreSQL", ""), Check::failed("unsupported version", hint)];
        }
        let mut checks = vec![Check::ok("PostgreSQL", "")];
        match session.privileges() {
            Ok(privileges) if privileges.superuser || privileges.backup => {
                checks.push(Check::ok("superuser or standard user with backup privileges", ""));
            }
            Ok(_) => checks.push(Check::failed(
                "no access to backup functions",
                "privileges for PostgreSQL backup functions are required (see documentation)",
            )),
            Err(error) => checks.push(Check::failed("no access to backup functions", error.to_string())),
        }
        if self.streams() {
            checks.push(match self.streaming_connection() {
                Ok(_) => Check::ok("PostgreSQL streaming", ""),
                Err(error) => Check::failed("PostgreSQL streaming", error.to_string()),
            });
        }
        let level = session.show("wal_level").ok().flatten().unwrap_or_default();
        let hint = "please set it to a higher level than 'minimal'";
        checks.push(if level == "minimal" {
            Check::failed("wal_level", hint)
        } else {
            Check::ok("wal_level", "")
        });
        checks.extend(self.primary(session));
        checks
    }

    /// Whether anything of this server uses the replication protocol.
    fn streams(&self) -> bool {
        let options = &self.config.options;
        options.streaming_archiver || options.backup_method == BackupMethod::Postgres
    }

    pub(super) fn archiving(&self, session: &mut Session) -> Vec<Check> {
        let mode = session.show("archive_mode").ok().flatten().unwrap_or_default();
        let command = session.show("archive_command").ok().flatten().unwrap_or_default();
        let on = matches!(mode.as_str(), "on" | "always");
        let set = !command.is_empty() && command != "(disabled)";
        let mut checks = vec![
            Check::verdict("archive_mode", on, if on { "" } else { "please set it to 'on' or 'always'" }),
            Check::verdict(
                "archive_command",
                set,
                if set { "" } else { "please set it accordingly to documentation" },
            ),
        ];
        if on && set {
            let running = session.archiver_stats().is_ok_and(|stats| stats.is_archiving());
            checks.push(Check::verdict("continuous archiving", running, ""));
        }
        checks
    }

    /// Whether `conninfo` and `primary_conninfo` lead to a standby and to its primary.
    fn primary(&self, session: &mut Session) -> Vec<Check> {
        let Some(conninfo) = self.config.options.primary_conninfo.as_deref() else { return Vec::new() };
        let verdict = |name: &str, passed: bool, hint: &str| {
            Check::verdict(name, passed, if passed { "" } else { hint })
        };
        let standby = session.is_in_recovery().unwrap_or(false);
        let mut primary = self.session_by(conninfo);
        let mut ask = |question: fn(&mut Session) -> bool| primary.as_mut().is_ok_and(question);
        let is_primary = ask(|primary| primary.is_in_recovery().is_ok_and(|standby| !standby));
        let own = session.system_id().ok();
        let other = primary.as_mut().ok().and_then(|primary| primary.system_id().ok());
        vec![
            verdict(
                "PostgreSQL server is standby",
                standby,
                "conninfo should point to a standby server if primary_conninfo is set",
            )
            .non_critical(),
            verdict(
                "Primary server is not a standby",
                is_primary,
                "primary_conninfo should point to a primary server, not a standby",
            ),
            verdict(
                "Primary and standby have same system ID",
                own.is_some() && own == other,
                "primary_conninfo and conninfo should point to primary and standby servers which share the same \
                 system identifier",
            ),
        ]
    }

    /// The same where WAL comes from another server than the backups.
    fn streaming_elsewhere(&self) -> Vec<Check> {
        let named = |name: &str| format!("{name} (WAL streaming)");
        let mut session = self.wal_session();
        let mut checks = Vec::new();
        if let Ok(session) = &mut session {
            let monitors = session.privileges().is_ok_and(|p| p.superuser || p.monitoring);
            checks.push(if monitors {
                Check::ok(named("has monitoring privileges"), "")
            } else {
                Check::failed(
                    named("no access to monitoring functions"),
                    "privileges for PostgreSQL monitoring functions are required (see documentation)",
                )
            });
        }
        let streaming = self.wal_streaming().and_then(|mut stream| Ok(stream.identify_system()?));
        checks.push(match &streaming {
            Ok(_) => Check::ok(named("PostgreSQL streaming"), ""),
            Err(error) => Check::failed(named("PostgreSQL streaming"), error.to_string()),
        });
        if let Ok(session) = &mut session {
            let level = session.show("wal_level").ok().flatten().unwrap_or_default();
            let hint = "please set it to a higher level than 'minimal'";
            checks.push(Check::verdict(
                named("wal_level"),
                level != "minimal",
                if level == "minimal" { hint } else { "" },
            ));
            let coherent = match (session.system_id(), &streaming) {
                (Ok(one), Ok(other)) => one == other.system_id,
                _ => false,
            };
            let stored = self.stored_system_id().ok().flatten();
            let own = session.system_id().ok();
            checks.push(if !coherent {
                let hint =
                    "is the streaming DSN targeting the same server of the PostgreSQL connection string?";
                Check::failed(named("systemid coherence"), hint)
            } else if stored.is_none() {
                Check::ok(named("systemid coherence"), "no system Id stored on disk")
            } else if stored == own {
                Check::ok(named("systemid coherence"), "")
            } else {
                let hint = format!(
                    "the system Id of the connected PostgreSQL server changed, stored in \"{}\"",
                    super::identity_path(&self.config)
                );
                Check::failed(named("systemid coherence"), hint)
            });
        }
        checks.extend(self.slot(session.as_mut().ok(), &named("replication slot")));
        checks
    }

    /// Whether WAL is received.
    pub(super) fn receiving(&self) -> Result<Vec<Check>, ServerError> {
        let running = self.receiver_runs()?;
        let hint = "See the Barman log file for more details";
        // The first two are about PostgreSQL's client; what stands for it is part of this program and knows all versions.
        Ok(vec![
            Check::ok("pg_receivexlog", ""),
            Check::ok("pg_receivexlog compatible", ""),
            Check::verdict("receive-wal running", running, if running { "" } else { hint }),
        ])
    }

    /// The replication slot, where one is configured.
    fn slot(&self, session: Option<&mut Session>, name: &str) -> Option<Check> {
        let options = &self.config.options;
        let slot = &options.slot_name.as_ref()?.0;
        let found = session.and_then(|session| session.physical_slot(slot).ok().flatten());
        match found {
            Some(found) if !options.streaming_archiver => {
                let state = if found.active { "active" } else { "initialised" };
                let hint =
                    format!("WARNING: slot '{slot}' is {state} but not required by the current config");
                Some(Check::ok(name, hint))
            }
            None if !options.streaming_archiver => None,
            None => Some(Check::failed(
                name,
                format!(
                    "replication slot '{slot}' doesn't exist. Please execute 'barman receive-wal --create-slot {}'",
                    self.name()
                ),
            )),
            Some(found) => Some(match (found.restart_lsn, found.active) {
                (None, _) => {
                    Check::failed(name, format!("slot '{slot}' not initialised: is 'receive-wal' running?"))
                }
                (Some(_), false) => {
                    Check::failed(name, format!("slot '{slot}' not active: is 'receive-wal' running?"))
                }
                (Some(_), true) => Check::ok(name, ""),
            }),
        }
    }

    /// Whether the files of the server can be reached, and whether this version has what the configuration asks a backup for.
    pub(super) fn executor_checks(&self, session: Option<&mut Session>, ctx: &Ctx<'_>) -> Vec<Check> {
        let options = &self.config.options;
        if self.config.is_passive() {
            let reached = self.transport_by(options.primary_ssh_command.as_deref(), false);
            return reached.map_or_else(
                |error| vec![Check::failed("ssh", error.to_string())],
                |transport| self.reach(transport.as_ref(), "Barman primary node", ctx),
            );
        }
        let mut checks = match options.backup_method {
            BackupMethod::LocalRsync => vec![self.local_data(session)],
            _ if options.ssh_command.is_none() => Vec::new(),
            BackupMethod::Rsync | BackupMethod::Snapshot => match self.transport() {
                Err(error) => vec![Check::failed("ssh", error.to_string())],
                Ok(transport) => self.reach(transport.as_ref(), "PostgreSQL server", ctx),
            },
            _ => Vec::new(),
        };
        let lacking = refusals(&self.config, Operation::Backup);
        if !self.config.is_disabled() && !lacking.is_empty() {
            checks.push(Check::failed("supported by this version", lacking.join("; ")));
        }
        checks
    }

    fn reach(&self, transport: &dyn crate::transport::Transport, hint: &str, ctx: &Ctx<'_>) -> Vec<Check> {
        let connect = |ctx: &Ctx<'_>| self.backup_session(ctx);
        let mut checks = CopyExecutor::new(transport, &connect).preflight(ctx);
        for check in checks.iter_mut().filter(|c| c.name == "ssh" && c.outcome == Outcome::Ok) {
            check.hint = hint.to_owned();
        }
        checks
    }

    /// Whether PGDATA can be read on this host. (Barman's check cannot fail; this one does when it cannot.)
    fn local_data(&self, session: Option<&mut Session>) -> Check {
        let name = "local PGDATA";
        let readable = match session.map(Session::data_directory) {
            None => Err("PostgreSQL cannot be asked where it is".to_owned()),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(path)) => self.host().disk.open_read(&path.join("PG_VERSION")).map_err(|e| e.to_string()),
        };
        match readable {
            Ok(_) => Check::ok(name, "Access to local PGDATA"),
            Err(reason) => Check::failed(name, reason),
        }
    }
}
