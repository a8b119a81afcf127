//! The first messages of a connection: who wants what, the login, and the server's greeting.

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::auth::Credentials;
use super::error::{PgError, ServerError};
use super::settings::Settings;
use super::wire::{Connection, Incoming};

/// What we call ourselves unless the settings say otherwise.
const APPLICATION_NAME: &str = "barman";

impl Connection {
    /// From a fresh socket to `ReadyForQuery`.
    pub(super) async fn start(
        &mut self,
        settings: &Settings,
        credentials: &Credentials<'_>,
    ) -> Result<(), PgError> {
        let application = settings
            .get("application_name")
            .or_else(|| settings.get("fallback_application_name"))
            .unwrap_or(APPLICATION_NAME);
        let mut parameters = vec![("user", settings.user.as_str()), ("database", settings.database.as_str())];
        if settings.replication {
            parameters.push(("replication", "true"));
        }
        if let Some(options) = settings.get("options") {
            parameters.push(("options", options));
        }
        // Answers are read as UTF-8 and ISO dates whatever the role's or the database's defaults are.
        parameters.push(("application_name", application));
        parameters.push(("client_encoding", "UTF8"));
        parameters.push(("DateStyle", "ISO"));
        self.outbox.clear();
        frontend::startup_message(parameters, &mut self.outbox)
            .map_err(|_| PgError::settings("a connection setting contains a zero byte"))?;
        self.flush().await?;
        self.authenticate(credentials).await?;
        self.greeting().await?;
        self.logged_in = true;
        self.replication = settings.replication;
        Ok(())
    }

    /// Parameters and the key for cancelling, up to `ReadyForQuery`.
    async fn greeting(&mut self) -> Result<(), PgError> {
        loop {
            match self.receive().await? {
                Incoming::Message(Message::BackendKeyData(body)) => {
                    self.key = Some((body.process_id(), body.secret_key()));
                }
                Incoming::Message(Message::ReadyForQuery(_)) => return Ok(()),
                Incoming::Message(Message::ErrorResponse(body)) => {
                    return Err(self.refused(ServerError::read(body.fields())));
                }
                Incoming::NegotiateVersion => {}
                _ => return Err(self.unexpected("the start of the session")),
            }
        }
    }
}
