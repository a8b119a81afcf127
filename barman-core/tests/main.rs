//! Behaviour of the library, a module each.

mod floor_plan;
mod config_barman;
mod config_ini;

mod catalog;
mod crash;
mod pg;
