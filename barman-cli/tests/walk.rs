//! The walk: what a careful user does with one PostgreSQL server, from the first backup to the restored server, with the real
//! binary, real servers and a real sshd. Nothing here looks into the library.

mod damage;
mod get_wal;
mod majors;
mod old_catalogs;
mod scene;
mod segments;
mod standby;
mod targets;
mod timelines;
