//! How files and commands are reached: on this host or over ssh.

mod command;
mod local;
mod local_ops;
mod local_walk;
mod open;
mod port;
mod process;
mod remote;
mod remote_fetch;
mod remote_list;
mod remote_ops;
mod remote_store;
mod remote_stream;
mod ssh2_lane;
mod ssh2_login;
mod ssh_control;
mod ssh_program;
mod ssh_target;
mod tar_read;
mod tar_write;

pub use command::{SplitError, join, quote, split};
pub use local::LocalTransport;
pub use open::{Opened, Prefer, open};
pub use port::{
    Exchange, ExitStatus, FetchItem, FetchSink, Fetched, FileFacts, FileOp, Lane, Probe, ProbeKind,
    RemoteCommand, StoreContent, StoreItem, StoreReport, Surveyed, Transport, TransportError,
};
pub use ssh_program::SshProgramTransport;
pub use ssh_target::{Family, NeedsProgram, NewHosts, SshTarget};
pub use ssh2_lane::Ssh2Transport;
pub use ssh2_login::SshEnvironment;
