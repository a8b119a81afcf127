//! `receive-wal` on real servers: everything comes in, nothing that was acknowledged is lost, timelines are followed.

mod chaos;
mod commands;
mod receiving;
mod rig;
