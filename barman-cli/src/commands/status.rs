//! `barman status SERVER …`

use serde_json::{Map, Value, json};

use crate::app::App;
use crate::error::Failure;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The servers, or 'all'.
    #[arg(required = true, value_name = "SERVER")]
    server_names: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    app.each(&arguments.server_names, |config| {
        let server = app.open(config)?;
        let ctx = app.ctx();
        let overview = server.overview(&ctx)?;
        let lines = server.status(&overview, &ctx);
        app.output.print(&format!("Server {}:", config.name));
        lines.iter().for_each(|line| app.output.print(&format!("\t{}: {}", line.title, line.text)));
        let member = |line: &barman_core::server::StatusLine| {
            (line.key.to_owned(), json!({ "description": line.title, "message": line.text }))
        };
        app.output.put(config.name.as_str(), Value::Object(lines.iter().map(member).collect::<Map<_, _>>()));
        Ok(())
    })
}
