//! Room `format`.

pub mod ini;
pub mod pyliteral;
pub mod relfile;
pub mod timestamp;
