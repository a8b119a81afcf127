//! Room `pg`.
