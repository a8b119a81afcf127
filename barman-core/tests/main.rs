//! Behaviour of the library, a module each.

mod catalog;
mod config_barman;
mod config_ini;
mod crash;
mod floor_plan;
mod pg;
mod transport;
mod wal_archive;
mod wal_page;
