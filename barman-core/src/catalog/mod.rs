//! The catalog: which backups there are, where their files lie, and how both stay whole.

mod admission;
mod annotations;
mod archives;
mod facts;
mod known;
mod layout;
mod local;
mod locking;
mod native_manifest;
mod pages;
mod port;
mod reader;
mod removal;
mod sidecar;
mod space;
mod verify;
mod walk;
mod witness;

pub(crate) use admission::Admission;
pub(crate) use archives::members_of;
pub(crate) use known::BACKUP_MANIFEST;
pub use layout::CatalogPaths;
pub use local::LocalCatalog;
pub use port::{
    BackupReader, BackupSpace, Catalog, CatalogError, DirSpec, Draft, FileProof, FileSink, FileSpec, Lease,
    MemberStream, Packed, Purpose, Removed, Reused, Root, SpaceReport, Survey, Unreadable,
};
pub use verify::{Fault, FileProblem, FileVerification, verify_files};
pub(crate) use witness::Witness;
