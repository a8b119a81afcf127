//! Room `pipe`.
