//! Room `hooks`.
