//! The catalog: which backups there are, where their files lie, and how both stay whole.

mod annotations;
mod archives;
mod facts;
mod frames;
mod layout;
mod local;
mod locking;
mod members;
mod native_manifest;
mod port;
mod reader;
mod removal;
mod sidecar;
mod space;
mod unpack;
mod walk;

pub(crate) use archives::{ENCRYPTED, write_members};
pub(crate) use frames::{FrameIndexWriter, index_name};
pub use layout::CatalogPaths;
pub use local::LocalCatalog;
pub use port::{
    BackupReader, BackupSpace, Catalog, CatalogError, DirSpec, Draft, FileProof, FileSink, FileSpec, Lease,
    MemberStream, Outline, Purpose, Removed, Reused, Root, SpaceReport, Survey, Unreadable,
};
