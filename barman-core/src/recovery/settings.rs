//! The recovery settings of a restored server, in Barman's words and order.

use camino::{Utf8Component, Utf8Path};
use time::OffsetDateTime;

use super::{PlanError, RecoveryRequest, SettingsPlan, WalDelivery, WalPlan};
use crate::format::timestamp;
use crate::model::{PgVersion, StopPoint, TargetAction, TargetTimeline, Timeline};

/// What is written for recovery, or `None` when the server only has to become consistent.
pub(crate) fn plan(
    request: &RecoveryRequest,
    version: PgVersion,
    wal: Option<&WalPlan>,
    explicit_timeline: Option<Timeline>,
) -> Result<Option<SettingsPlan>, PlanError> {
    let target = &request.target;
    let point_in_time = target.is_point_in_time();
    let fetch = matches!(request.wal, WalDelivery::Fetch { .. });
    if target.action.is_some() && !point_in_time {
        return Err(PlanError::Invalid(
            "Can't enable recovery target action when PITR is not required".to_owned(),
        ));
    }
    if !point_in_time && !fetch && !request.standby {
        return Ok(None);
    }
    let mut lines = Vec::new();
    delivery(request, wal, &mut lines);
    stop(request, &mut lines);
    match (target.timeline, explicit_timeline) {
        (TargetTimeline::Default, Some(timeline)) => {
            lines.push(format!("recovery_target_timeline = '{timeline}'"))
        }
        (TargetTimeline::Default, None) => {}
        // `current` means the backup's own timeline before 12 only when nothing is written.
        (TargetTimeline::Current, _) if !version.has_recovery_signal() => {}
        // As the planner found it, where the server's own search would end elsewhere.
        (TargetTimeline::Latest, Some(timeline)) => {
            lines.push(format!("recovery_target_timeline = '{timeline}'"))
        }
        (typed, _) => lines.push(format!("recovery_target_timeline = {typed}")),
    }
    if let Some(action) = target.action {
        if version.has_target_action() {
            lines.push(format!("recovery_target_action = '{action}'"));
        } else if action == TargetAction::Pause {
            lines.push("pause_at_recovery_target = 'on'".to_owned());
        }
    }
    if request.standby && !version.has_recovery_signal() {
        lines.push("standby_mode = 'on'".to_owned());
    }
    let (file, signal) = if version.has_recovery_signal() {
        let file = request.settings_file.clone().unwrap_or_else(|| "postgresql.auto.conf".to_owned());
        let stays = Utf8Path::new(&file).components().all(|c| matches!(c, Utf8Component::Normal(_)));
        if file.is_empty() || !stays {
            return Err(PlanError::Invalid(format!(
                "The file for recovery settings, '{file}', must lie in the data directory and be named relative to it"
            )));
        }
        (file, Some(if request.standby { "standby.signal" } else { "recovery.signal" }))
    } else {
        if request.settings_file.is_some() {
            return Err(PlanError::Invalid(format!(
                "A file for recovery settings can be chosen from PostgreSQL 12 on; \
                 version {version} reads only recovery.conf"
            )));
        }
        ("recovery.conf".to_owned(), None)
    };
    Ok(Some(SettingsPlan { file, lines, signal }))
}

fn delivery(request: &RecoveryRequest, wal: Option<&WalPlan>, lines: &mut Vec<String>) {
    match &request.wal {
        WalDelivery::Fetch { restore_command, comment } => {
            if let Some(comment) = comment {
                lines.push(format!("# {comment}"));
            }
            lines.push(format!("restore_command = '{}'", quote(restore_command)));
        }
        WalDelivery::Copy { .. } => {
            let Some(wal) = wal.filter(|w| !w.own_directory) else { return };
            let directory = command_word(wal.directory.as_str());
            lines.push(format!("restore_command = '{}'", quote(&format!("cp {directory}/%f %p"))));
            if !request.standby {
                lines.push(format!("recovery_end_command = '{}'", quote(&format!("rm -fr {directory}"))));
            }
        }
    }
}

fn stop(request: &RecoveryRequest, lines: &mut Vec<String>) {
    let target = &request.target;
    let exclusive = match &target.stop {
        StopPoint::Latest => false,
        StopPoint::Immediate => {
            lines.push("recovery_target = 'immediate'".to_owned());
            false
        }
        StopPoint::Time(time) => {
            lines.push(format!("recovery_target_time = '{}'", time_text(*time)));
            true
        }
        StopPoint::Xid(xid) => {
            lines.push(format!("recovery_target_xid = '{xid}'"));
            true
        }
        StopPoint::Lsn(lsn) => {
            lines.push(format!("recovery_target_lsn = '{lsn}'"));
            true
        }
        StopPoint::Name(name) => {
            lines.push(format!("recovery_target_name = '{}'", quote(name)));
            false
        }
    };
    if exclusive && !target.inclusive {
        lines.push("recovery_target_inclusive = 'False'".to_owned());
    }
}

fn time_text(time: OffsetDateTime) -> String {
    timestamp::python_str(time)
}

/// Doubles single quotes and backslashes, as the configuration grammar wants inside quotes (`DeescapeQuotedString` in
/// `src/backend/utils/misc/guc-file.l`).
fn quote(text: &str) -> String {
    text.replace('\\', r"\\").replace('\'', "''")
}

/// A directory in a command that PostgreSQL runs: a word for the shell, in which a percent sign is only that.
fn command_word(directory: &str) -> String {
    shell_word(directory).replace('%', "%%")
}

/// A word for the shell: as it is when harmless, else in single quotes.
fn shell_word(text: &str) -> String {
    let harmless = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+:@%=,".contains(&b));
    if harmless { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
