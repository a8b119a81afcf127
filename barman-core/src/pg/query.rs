//! Statements: the simple query protocol, the extended one for anything with a user's text in it, and their answers.

use std::str::FromStr;

use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::error::{PgError, ServerError};
use super::wire::{Connection, Incoming};

/// The answer to one statement, in text form unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultSet<C = String> {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows; `None` is SQL's NULL.
    pub rows: Vec<Vec<Option<C>>>,
    /// The command tag: `SELECT 1`, `SET`, `IDENTIFY_SYSTEM` …; empty for an empty statement.
    pub tag: String,
}

impl<C> ResultSet<C> {
    fn empty() -> Self {
        Self { columns: Vec::new(), rows: Vec::new(), tag: String::new() }
    }
}

impl ResultSet {
    /// The rows, with access by the name of a column.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|values| Row { columns: &self.columns, values })
    }

    /// The only row.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn single(&self) -> Result<Row<'_>, PgError> {
        match self.rows.as_slice() {
            [values] => Ok(Row { columns: &self.columns, values }),
            rows => Err(PgError::answer(format!("{} rows instead of one", rows.len()))),
        }
    }

    /// The only value of the only row.
    ///
    /// # Errors
    /// When there is not exactly one row of one column.
    pub fn scalar(&self) -> Result<Option<&str>, PgError> {
        match self.single()?.values {
            [value] => Ok(value.as_deref()),
            values => Err(PgError::answer(format!("{} columns instead of one", values.len()))),
        }
    }
}

/// One row of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    columns: &'a [String],
    values: &'a [Option<String>],
}

impl<'a> Row<'a> {
    /// The value of a column, `None` for NULL.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn text(&self, column: &str) -> Result<Option<&'a str>, PgError> {
        self.columns
            .iter()
            .position(|name| name == column)
            .and_then(|index| self.values.get(index))
            .map(Option::as_deref)
            .ok_or_else(|| PgError::answer(format!("no column \"{column}\"")))
    }

    /// A value that is not NULL.
    ///
    /// # Errors
    /// When there is no such column, or it is NULL.
    pub fn required(&self, column: &str) -> Result<&'a str, PgError> {
        self.text(column)?.ok_or_else(|| PgError::answer(format!("column \"{column}\" is null")))
    }

    /// A value as a type that can be read from text, `None` for NULL.
    ///
    /// # Errors
    /// When there is no such column, or its text is not of that type.
    pub fn optional<T: FromStr>(&self, column: &str) -> Result<Option<T>, PgError> {
        self.text(column)?
            .map(|text| {
                text.parse().map_err(|_| PgError::answer(format!("column \"{column}\" holds '{text}'")))
            })
            .transpose()
    }

    /// A value that is not NULL, as a type that can be read from text.
    ///
    /// # Errors
    /// When there is no such column, it is NULL, or its text is not of that type.
    pub fn parse<T: FromStr>(&self, column: &str) -> Result<T, PgError> {
        self.optional(column)?.ok_or_else(|| PgError::answer(format!("column \"{column}\" is null")))
    }

    /// A truth value (`t`, `f`); NULL counts as false.
    ///
    /// # Errors
    /// When there is no such column, or it holds something else.
    pub fn boolean(&self, column: &str) -> Result<bool, PgError> {
        match self.text(column)? {
            Some("t") => Ok(true),
            Some("f") | None => Ok(false),
            Some(other) => Err(PgError::answer(format!("column \"{column}\" holds '{other}'"))),
        }
    }
}

impl Connection {
    /// Sends a text of one or more statements without parameters and returns the answer of each.
    ///
    /// Never build the text from a user's input: use [`Connection::query_with`].
    ///
    /// # Errors
    /// The server's first error, after which the connection can be used again unless it was fatal; or a lost
    /// connection.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<ResultSet>, PgError> {
        self.outbox.clear();
        frontend::query(sql, &mut self.outbox).map_err(|e| PgError::settings(e.to_string()))?;
        self.flush().await?;
        self.answers().await
    }

    /// Sends one statement with parameters (`$1`, `$2` …, in text form) and returns its answer. Not possible on a
    /// replication connection.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn query_with(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<ResultSet, PgError> {
        self.outbox.clear();
        let out = &mut self.outbox;
        let written = frontend::parse("", sql, [], out)
            .and_then(|()| {
                let value = |value: Option<&str>, out: &mut bytes::BytesMut| {
                    Ok(match value {
                        Some(text) => {
                            out.extend_from_slice(text.as_bytes());
                            IsNull::No
                        }
                        None => IsNull::Yes,
                    })
                };
                frontend::bind("", "", [], parameters.iter().copied(), value, [], out)
                    .map_err(|_| std::io::Error::other("the parameters cannot be sent"))
            })
            .and_then(|()| frontend::describe(b'P', "", out))
            .and_then(|()| frontend::execute("", 0, out));
        frontend::sync(out);
        if let Err(error) = written {
            self.outbox.clear();
            return Err(PgError::settings(error.to_string()));
        }
        self.flush().await?;
        let mut answers = self.answers().await?;
        answers.pop().ok_or_else(|| PgError::answer("no answer to a statement"))
    }

    /// Everything up to `ReadyForQuery`.
    async fn answers(&mut self) -> Result<Vec<ResultSet>, PgError> {
        self.answers_from(None).await
    }

    /// The same where the first message was taken already.
    pub(super) async fn answers_from(&mut self, first: Option<Incoming>) -> Result<Vec<ResultSet>, PgError> {
        self.collect(first, text).await
    }

    /// Sends a command whose answers are not all text; gives the rows only.
    pub(super) async fn query_bytes(&mut self, sql: &str) -> Result<Vec<ByteRows>, PgError> {
        self.outbox.clear();
        frontend::query(sql, &mut self.outbox).map_err(|e| PgError::settings(e.to_string()))?;
        self.flush().await?;
        let answers = self.collect(None, |bytes| Ok(bytes.to_vec())).await?;
        Ok(answers.into_iter().map(|answer| answer.rows).collect())
    }

    async fn collect<C>(
        &mut self,
        mut first: Option<Incoming>,
        cell: fn(&[u8]) -> Result<C, PgError>,
    ) -> Result<Vec<ResultSet<C>>, PgError> {
        let mut answering = Answering::default();
        let mut done = Vec::new();
        loop {
            match self.step(&mut answering, first.take(), cell).await? {
                Step::Answer(answer) => done.push(answer),
                Step::Ready => return Ok(done),
                Step::CopyOut => return Err(self.unexpected("a query")),
            }
        }
    }

    /// Reads on until something is complete. The server's error is given when it is ready again.
    pub(super) async fn step<C>(
        &mut self,
        answering: &mut Answering<C>,
        mut first: Option<Incoming>,
        cell: fn(&[u8]) -> Result<C, PgError>,
    ) -> Result<Step<C>, PgError> {
        loop {
            let received = match first.take() {
                Some(first) => Ok(first),
                None => self.receive().await,
            };
            let message = match (received, answering.error.take()) {
                // The connection ended after the server said why.
                (Err(PgError::Lost { .. }), Some(server)) => return Err(PgError::Server(Box::new(server))),
                (Err(lost), _) => return Err(lost),
                (Ok(message), kept) => {
                    answering.error = kept;
                    message
                }
            };
            let Incoming::Message(message) = message else {
                return Err(self.unexpected("a query"));
            };
            match message {
                Message::RowDescription(body) => {
                    let names = body.fields().map(|field| Ok(field.name().to_owned())).collect();
                    answering.current.columns =
                        names.map_err(|_| self.unexpected("the description of a row"))?;
                }
                Message::DataRow(body) => {
                    let row = row(&body, cell).inspect_err(|_| self.mark_broken())?;
                    answering.current.rows.push(row);
                }
                Message::CommandComplete(body) => {
                    let tag = body.tag().map_err(|_| self.unexpected("the end of a command"))?;
                    tag.clone_into(&mut answering.current.tag);
                    return Ok(Step::Answer(answering.take()));
                }
                Message::EmptyQueryResponse => return Ok(Step::Answer(answering.take())),
                Message::ErrorResponse(body) => {
                    answering.error.get_or_insert(ServerError::read(body.fields()));
                }
                Message::ReadyForQuery(_) => {
                    return match answering.error.take() {
                        Some(server) => Err(PgError::Server(Box::new(server))),
                        None => Ok(Step::Ready),
                    };
                }
                Message::CopyOutResponse(_) => return Ok(Step::CopyOut),
                Message::ParseComplete | Message::BindComplete | Message::NoData => {}
                _ => return Err(self.unexpected("a query")),
            }
        }
    }
}

/// Answers as far as they have come.
pub(super) struct Answering<C> {
    current: ResultSet<C>,
    error: Option<ServerError>,
}

impl<C> Default for Answering<C> {
    fn default() -> Self {
        Self { current: ResultSet::empty(), error: None }
    }
}

impl<C> Answering<C> {
    fn take(&mut self) -> ResultSet<C> {
        std::mem::replace(&mut self.current, ResultSet::empty())
    }
}

/// What is complete.
pub(super) enum Step<C> {
    /// The answer to one statement.
    Answer(ResultSet<C>),
    /// The server begins to send the data of a `COPY`.
    CopyOut,
    /// The server waits for the next command.
    Ready,
}

/// Rows of an answer whose values are not all text.
pub(super) type ByteRows = Vec<Vec<Option<Vec<u8>>>>;

/// A value as text.
pub(super) fn text(bytes: &[u8]) -> Result<String, PgError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| PgError::answer("a value that is not UTF-8"))
}

fn row<C>(
    body: &postgres_protocol::message::backend::DataRowBody,
    cell: fn(&[u8]) -> Result<C, PgError>,
) -> Result<Vec<Option<C>>, PgError> {
    let ranges: Vec<_> = body.ranges().collect().map_err(|e| PgError::protocol(e.to_string()))?;
    ranges
        .into_iter()
        .map(|range| range.map(|range| cell(body.buffer().get(range).unwrap_or_default())).transpose())
        .collect()
}
