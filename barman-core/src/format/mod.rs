//! Room `format`.

pub mod backup_info;
pub mod ini;
pub mod interval;
pub mod pyliteral;
pub mod relfile;
pub mod size;
pub mod text;
pub mod timestamp;
pub mod xlogdb;
