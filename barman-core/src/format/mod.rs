//! Room `format`.

pub mod backup_info;
pub mod ini;
pub mod pyliteral;
pub mod relfile;
pub mod timestamp;
