//! `barman list-servers`

use serde_json::json;

use crate::app::App;
use crate::error::Failure;

/// Arguments of `list-servers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Names only.
    #[arg(long)]
    minimal: bool,
}

pub(crate) fn run(arguments: &Arguments, app: &App) -> Result<(), Failure> {
    let config = &app.config;
    let all = config.section_order.iter().filter_map(|name| config.servers.get(name));
    all.for_each(|server| app.tell_notices(server));
    for (name, server) in &app.config.servers {
        let description = server.options.description.as_deref();
        if arguments.minimal {
            app.output.print(name.as_str());
        } else {
            let text = description.map(|d| format!(" - {d}")).unwrap_or_default();
            let text = if text.is_empty() && !server.suffix().is_empty() { " - ".to_owned() } else { text };
            app.output.print(&format!("{name}{text}{}", server.suffix()));
        }
        let shown = format!("{}{}", description.unwrap_or_default(), server.suffix());
        let shown = Some(shown).filter(|text| description.is_some() || !text.is_empty());
        app.output.put(name.as_str(), json!({ "description": shown }));
    }
    Ok(())
}
