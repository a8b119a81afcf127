//! Room `format`.
pub mod relfile;
