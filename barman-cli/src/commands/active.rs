//! Which servers a command leaves out.

use barman_core::config::ServerConfig;

use crate::app::App;

/// Says so and answers yes when the server is inactive.
pub(crate) fn skipped(config: &ServerConfig, app: &App) -> bool {
    if !config.is_active() {
        app.output.info(&format!("Skipping inactive server '{}'", config.name));
    }
    !config.is_active()
}
