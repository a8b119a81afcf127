//! Proving who we are: trust, password, md5, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS.
//!
//! Source: PostgreSQL's documentation, chapter "Frontend/Backend Protocol", sections "Start-up" and "SASL Authentication".

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::error::{PgError, ServerError};
use super::settings::Settings;
use super::wire::{Connection, Incoming};
use crate::model::Secret;

/// What a login is allowed to do, and with what.
pub(super) struct Credentials<'a> {
    user: &'a str,
    password: Option<&'a Secret>,
    binding: Binding,
    /// Hash of the server's certificate for `tls-server-end-point`, where there is TLS and the hash is defined.
    end_point: Option<Vec<u8>>,
    allowed: Allowed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Binding {
    Disable,
    Prefer,
    Require,
}

/// `require_auth`: a list of methods, or of methods with `!` that are not allowed.
struct Allowed {
    negated: bool,
    methods: Vec<String>,
}

impl Allowed {
    fn parse(settings: &Settings) -> Result<Self, PgError> {
        const KNOWN: [&str; 8] =
            ["password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "creds", "none"];
        let words: Vec<&str> =
            settings.get("require_auth").map(|t| t.split(',').map(str::trim).collect()).unwrap_or_default();
        let negated = words.first().is_none_or(|word| word.starts_with('!'));
        let mut methods = Vec::new();
        for word in words {
            let method = word.strip_prefix('!').unwrap_or(word);
            if word.starts_with('!') != negated {
                return Err(PgError::settings(format!(
                    "require_auth method \"{word}\" mixes both kinds of list"
                )));
            }
            if !KNOWN.contains(&method) {
                return Err(PgError::settings(format!("invalid require_auth value: \"{word}\"")));
            }
            methods.push(method.to_owned());
        }
        Ok(Self { negated, methods })
    }

    fn permits(&self, method: &str) -> bool {
        self.methods.iter().any(|known| known == method) != self.negated
    }
}

impl<'a> Credentials<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        password: Option<&'a Secret>,
        end_point: Option<Vec<u8>>,
    ) -> Result<Self, PgError> {
        let binding = match settings.choice("channel_binding", &["prefer", "disable", "require"])? {
            "disable" => Binding::Disable,
            "require" => Binding::Require,
            _ => Binding::Prefer,
        };
        let allowed = Allowed::parse(settings)?;
        Ok(Self { user: &settings.user, password, binding, end_point, allowed })
    }
}

impl Connection {
    /// Answers the server's demands until it is content. What follows is the server's greeting.
    pub(super) async fn authenticate(&mut self, credentials: &Credentials<'_>) -> Result<(), PgError> {
        let mut method = "none";
        let mut bound = false;
        loop {
            let message = match self.receive().await? {
                Incoming::Message(message) => message,
                Incoming::NegotiateVersion => continue,
                Incoming::CopyBoth => return Err(self.unexpected("the login")),
            };
            match message {
                Message::AuthenticationOk => {
                    if !credentials.allowed.permits(method) {
                        return Err(self.not_allowed(credentials, method));
                    }
                    if credentials.binding == Binding::Require && !bound {
                        return Err(self.denied(
                            "channel binding required, but server authenticated client without channel binding",
                        ));
                    }
                    return Ok(());
                }
                Message::AuthenticationCleartextPassword => {
                    method = "password";
                    self.ready_for(credentials, method)?;
                    let password = self.password(credentials)?;
                    self.send_password(password.expose().as_bytes()).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    method = "md5";
                    self.ready_for(credentials, method)?;
                    let password = self.password(credentials)?;
                    let hash =
                        md5_hash(credentials.user.as_bytes(), password.expose().as_bytes(), body.salt());
                    self.send_password(hash.as_bytes()).await?;
                }
                Message::AuthenticationSasl(body) => {
                    method = "scram-sha-256";
                    if !credentials.allowed.permits(method) {
                        return Err(self.not_allowed(credentials, method));
                    }
                    bound = self.scram(&body, credentials).await?;
                }
                Message::ErrorResponse(body) => return Err(self.refused(ServerError::read(body.fields()))),
                Message::AuthenticationGss
                | Message::AuthenticationSspi
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationScmCredential => {
                    return Err(
                        self.denied("the server asks for an authentication method that is not supported")
                    );
                }
                _ => return Err(self.unexpected("the login")),
            }
        }
    }

    /// Before a password leaves us: is the method allowed, and can it be used with channel binding?
    fn ready_for(&mut self, credentials: &Credentials<'_>, method: &str) -> Result<(), PgError> {
        if !credentials.allowed.permits(method) {
            return Err(self.not_allowed(credentials, method));
        }
        if credentials.binding == Binding::Require {
            return Err(
                self.denied("channel binding required but not supported by server's authentication request")
            );
        }
        Ok(())
    }

    fn password<'c>(&self, credentials: &Credentials<'c>) -> Result<&'c Secret, PgError> {
        credentials
            .password
            .filter(|password| !password.expose().is_empty())
            .ok_or_else(|| self.denied("fe_sendauth: no password supplied"))
    }

    async fn send_password(&mut self, password: &[u8]) -> Result<(), PgError> {
        self.outbox.clear();
        frontend::password_message(password, &mut self.outbox)
            .map_err(|_| self.denied("the password contains a zero byte"))?;
        self.flush().await
    }

    /// The SCRAM exchange up to the server's proof that it knows the password too. Whether it was bound to the channel.
    async fn scram(
        &mut self,
        body: &AuthenticationSaslBody,
        credentials: &Credentials<'_>,
    ) -> Result<bool, PgError> {
        let mechanisms: Vec<&str> =
            body.mechanisms().collect().map_err(|e| PgError::protocol(e.to_string()))?;
        let (mechanism, binding) = self.mechanism(&mechanisms, credentials)?;
        let password = self.password(credentials)?;
        let mut scram = ScramSha256::new(password.expose().as_bytes(), binding);

        self.outbox.clear();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut self.outbox)
            .map_err(|e| PgError::protocol(e.to_string()))?;
        self.flush().await?;
        match self.receive().await? {
            Incoming::Message(Message::AuthenticationSaslContinue(body)) => {
                scram.update(body.data()).map_err(|e| self.denied(format!("SCRAM exchange failed: {e}")))?;
            }
            Incoming::Message(Message::ErrorResponse(body)) => {
                return Err(self.refused(ServerError::read(body.fields())));
            }
            _ => return Err(self.unexpected("the SCRAM exchange")),
        }
        self.outbox.clear();
        frontend::sasl_response(scram.message(), &mut self.outbox)
            .map_err(|e| PgError::protocol(e.to_string()))?;
        self.flush().await?;
        match self.receive().await? {
            Incoming::Message(Message::AuthenticationSaslFinal(body)) => {
                scram.finish(body.data()).map_err(|_| self.denied("incorrect server signature"))?;
            }
            Incoming::Message(Message::ErrorResponse(body)) => {
                return Err(self.refused(ServerError::read(body.fields())));
            }
            _ => return Err(self.unexpected("the SCRAM exchange")),
        }
        Ok(mechanism == SCRAM_SHA_256_PLUS)
    }

    fn mechanism(
        &mut self,
        offered: &[&str],
        credentials: &Credentials<'_>,
    ) -> Result<(&'static str, ChannelBinding), PgError> {
        let plus = offered.contains(&SCRAM_SHA_256_PLUS);
        if plus && !self.is_encrypted() {
            return Err(
                self.denied("server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection")
            );
        }
        match (&credentials.end_point, credentials.binding) {
            (Some(hash), Binding::Prefer | Binding::Require) if plus => {
                Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.clone())))
            }
            (_, Binding::Require) => {
                Err(self.denied("channel binding is required, but server did not offer an authentication method that supports channel binding"))
            }
            _ if !offered.contains(&SCRAM_SHA_256) => {
                Err(self.denied("none of the server's SASL authentication mechanisms are supported"))
            }
            // "y": we could bind, and the server did not offer it; "n": we could not, or must not.
            (Some(_), Binding::Prefer) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
            _ => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        }
    }

    fn not_allowed(&self, credentials: &Credentials<'_>, method: &str) -> PgError {
        let list: Vec<String> = credentials
            .allowed
            .methods
            .iter()
            .map(|m| if credentials.allowed.negated { format!("!{m}") } else { m.clone() })
            .collect();
        self.denied(format!(
            "authentication method requirement \"{}\" failed: the server asks for \"{method}\"",
            list.join(",")
        ))
    }

    fn denied(&self, reason: impl Into<String>) -> PgError {
        PgError::Auth { endpoint: self.endpoint.clone(), reason: reason.into(), server: None }
    }

    /// The server's refusal during start-up: class 28 is about who we are, anything else is not.
    pub(super) fn refused(&mut self, server: ServerError) -> PgError {
        self.mark_broken();
        let (endpoint, server) = (self.endpoint.clone(), Box::new(server));
        if server.sqlstate.starts_with("28") {
            PgError::Auth { endpoint, reason: server.to_string(), server: Some(server) }
        } else {
            PgError::Refused { endpoint, server }
        }
    }
}
