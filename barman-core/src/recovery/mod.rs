//! Room `recovery`.
