//! Room `ctx`.
