//! Room `format`.
pub mod ini;
pub mod relfile;
