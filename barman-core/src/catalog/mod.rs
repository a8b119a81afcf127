//! The catalog: which backups there are, where their files lie, and how both stay whole.

mod admission;
mod annotations;
mod archives;
mod facts;
mod frames;
mod known;
mod layout;
mod local;
mod locking;
mod members;
mod native_manifest;
mod pages;
mod port;
mod reader;
mod removal;
mod sidecar;
mod space;
mod unpack;
mod verify;
mod walk;
mod witness;

pub(crate) use admission::Admission;
pub(crate) use archives::{ENCRYPTED, write_members};
pub(crate) use frames::{FrameIndexWriter, index_name};
pub(crate) use known::BACKUP_MANIFEST;
pub use layout::CatalogPaths;
pub use local::LocalCatalog;
pub(crate) use members::members_of;
pub use port::{
    BackupReader, BackupSpace, Catalog, CatalogError, DirSpec, Draft, FileProof, FileSink, FileSpec, Lease,
    MemberStream, Outline, Packed, Purpose, Removed, Reused, Root, SpaceReport, Survey, Unreadable,
};
pub use verify::{Fault, FileProblem, FileVerification, verify_files};
pub(crate) use witness::Witness;
