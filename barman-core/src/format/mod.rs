//! Every byte and text format this program reads or writes, as pure functions between bytes and
//! [`crate::model`] values.

pub mod backup_info;
pub mod backup_json;
pub mod conninfo;
pub mod ini;
pub mod interval;
pub mod pgpass;
pub mod pyliteral;
pub mod relfile;
pub mod service;
pub mod size;
pub mod text;
pub mod timestamp;
pub mod control;
pub mod page;
pub mod tar;
pub mod backup_label;
pub mod manifest;
pub mod wal_page;
pub mod wal_record;
pub mod xlogdb;
pub mod history;
pub mod incremental;
pub mod pg_conf;
