//! Bringing a server back: a pure planner, a plan that can be read, and the run that carries it out.

mod combine;
mod compare;
mod delta;
mod error;
mod judged;
mod packed;
mod path;
mod planner;
mod port;
mod prepare;
mod run;
mod settings;
mod settle;
mod verify;

pub use combine::Chain;
pub use error::RecoveryError;
pub(crate) use judged::expected_segment;
pub use planner::StandardPlanner;
pub use port::{
    Facts, LastRecord, PlanError, RecoveryPlan, RecoveryPlanner, RecoveryRequest, SettingsPlan, StopAfter,
    TablespacePlan, TimeStop, TreePlan, Unfinished, WalDelivery, WalPlan,
};
pub use prepare::look;
pub use run::{RecoveryReport, RunOptions, run};
pub use settle::{ConfigLine, ConfigReport};
