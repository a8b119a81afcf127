//! How a plan of deletion is shown.

use std::collections::BTreeMap;

use barman_core::model::WalFileName;
use barman_core::policy::prune::{PrunePlan, WalPlan};

/// The plan in lines: what goes, what stays, each with its reason. WAL that stays is summed up by reason.
pub(crate) fn lines(plan: &PrunePlan) -> Vec<String> {
    let mut lines = Vec::new();
    if plan.deletions.is_empty() {
        lines.push("No backup would be deleted".to_owned());
    }
    for deletion in &plan.deletions {
        lines.push(format!("Backup {} would be deleted: {}", deletion.id, deletion.cause));
    }
    for (id, why) in &plan.spared {
        lines.push(format!("Backup {id} stays: {why}"));
    }
    match &plan.wal {
        WalPlan::Parted(parted) => {
            for name in &parted.removable {
                lines.push(format!("WAL file {name} would be deleted: no backup that stays needs it"));
            }
            let mut kept: BTreeMap<String, Vec<&WalFileName>> = BTreeMap::new();
            for (name, why) in &parted.kept {
                kept.entry(why.to_string()).or_default().push(name);
            }
            for (why, names) in kept {
                lines.push(match names.as_slice() {
                    [one] => format!("WAL file {one} stays: {why}"),
                    [first, .., last] => {
                        format!("{} WAL files from {first} to {last} stay: {why}", names.len())
                    }
                    [] => continue,
                });
            }
        }
        WalPlan::OlderBackup(id) => {
            lines.push(format!("All WAL stays: the older backup {id} needs what is newer than it"));
        }
        WalPlan::LimitUnknown(id) => {
            lines.push(format!("All WAL stays: it is not known where the WAL of backup {id} begins"));
        }
        _ => lines.push("All WAL stays".to_owned()),
    }
    lines
}
