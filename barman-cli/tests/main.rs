//! Behaviour of the commands, a module each.

mod user;
mod cron;
mod deleting;
mod hand_made;
mod kills;
mod one_home;
mod recovering;
mod scene;
mod wal_commands;
mod walk;
mod wrong_input;
