//! Behaviour of the commands, a module each.

mod kills;
mod one_home;
mod scene;
mod walk;
mod wrong_input;
