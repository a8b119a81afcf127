//! How files and commands are reached: on this host or over ssh.

mod port;

pub use port::{
    Exchange, ExitStatus, FetchItem, FetchSink, Fetched, FileFacts, FileOp, Lane, Probe, ProbeKind,
    RemoteCommand, StoreContent, StoreItem, StoreReport, Transport, TransportError,
};
