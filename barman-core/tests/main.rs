//! Behaviour of the library, a module each.

mod config_ini;

mod catalog;
mod crash;
mod pg;
