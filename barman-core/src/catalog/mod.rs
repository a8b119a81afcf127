//! The catalog: which backups there are, where their files lie, and how both stay whole.

mod annotations;
mod archives;
mod facts;
mod layout;
mod local;
mod locking;
mod native_manifest;
mod port;
mod reader;
mod removal;
mod sidecar;
mod space;
mod walk;

pub use layout::CatalogPaths;
pub use local::LocalCatalog;
pub use port::{
    BackupReader, BackupSpace, Catalog, CatalogError, DirSpec, Draft, FileProof, FileSink, FileSpec, Lease,
    MemberStream, Purpose, Removed, Reused, Root, SpaceReport, Survey, Unreadable,
};
