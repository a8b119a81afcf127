//! Lanes to this host and to others: one conformance suite for all of them, and what only ssh can do wrong.

mod conformance;
mod local;
mod library;
mod program;
