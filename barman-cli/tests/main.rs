//! Behaviour of the commands, a module each.

mod walk;
