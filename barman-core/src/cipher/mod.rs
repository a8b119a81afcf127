//! Room `cipher`.
