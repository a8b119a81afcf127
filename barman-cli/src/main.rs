//! The `barman` command: reads arguments and configuration, calls one operation of the library, draws its result.

mod app;
mod args;
mod clock;
mod commands;
mod error;
mod logfile;
mod output;
mod progress;
mod user;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match args::parse() {
        Ok(arguments) => arguments,
        Err(early) => return early,
    };
    if let Some(outcome) = commands::run_without_configuration(&arguments.command) {
        return error::exit(outcome);
    }
    match app::start(&arguments) {
        Ok(app) => {
            let outcome = commands::run(arguments.command, &app);
            app.finish(outcome)
        }
        Err(lines) => {
            error::print_lines(&lines);
            ExitCode::from(commands::early_status(&arguments.command))
        }
    }
}
