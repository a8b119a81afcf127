//! Behaviour of the library, a module each.

mod config_ini;

mod crash;
mod pg;
