//! `barman config-switch SERVER [MODEL] [--reset]`

use crate::app::App;
use crate::error::Failure;

/// Arguments of `config-switch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The server.
    server_name: String,
    /// The model to put over its configuration.
    model_name: Option<String>,
    /// Have no model any more. Stronger than a model that is named.
    #[arg(long)]
    reset: bool,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = app.server(&arguments.server_name)?;
    let failure = |e: barman_core::config::ConfigError| Failure::Error(e.to_string());
    let switch = match &arguments.model_name {
        _ if arguments.reset => config.switch_off(),
        Some(model) => config.switch_to(app.config.model(model).map_err(failure)?).map_err(failure)?,
        None => {
            return Err(Failure::Error("Either a model name or '--reset' flag need to be given".to_owned()));
        }
    };
    let server = app.open(config)?;
    server.switch_model(&switch)?;
    for line in switch.lines() {
        app.output.info(&line);
    }
    Ok(())
}
