//! One connection of the scripted server: start, authentication, simple and extended queries.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;

use super::reply::{self, Act, CopyEnd, Reply};
use super::scram::Exchange;
use super::{Auth, Query, Shared};

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Protocol 3.0; a client may ask for a higher minor version, which is not negotiated here.
const VERSION_3_0: u32 = 196_608;
/// The secret of the first connection; later ones count up.
const SECRET: u32 = 0x5EC_2E7;

/// Why a connection ends.
enum End {
    /// As it should, or as the script wanted.
    Expected,
    /// The peer closed, or the network failed.
    Lost(io::Error),
    /// The peer did something wrong.
    Deviation(String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Lost(error)
    }
}

pub(super) fn serve(stream: TcpStream, number: usize, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let cuts = &shared.script.cuts;
    let budget = cuts.iter().find(|(n, _)| *n == number).map(|(_, bytes)| *bytes);
    let mut connection = Connection { stream, number, shared, budget, status: b'I', user: String::new() };
    let end = connection.run();
    let _ = connection.stream.shutdown(Shutdown::Both);
    let closing = shared.closing.load(std::sync::atomic::Ordering::SeqCst);
    match end {
        Ok(()) | Err(End::Expected) => {}
        Err(End::Deviation(what)) => shared.deviation(number, what),
        Err(End::Lost(_)) if closing || shared.script.abrupt_ends || connection.budget.is_some() => {}
        Err(End::Lost(error)) => shared.deviation(number, format!("ended without Terminate: {error}")),
    }
}

struct Connection<'a> {
    stream: TcpStream,
    number: usize,
    shared: &'a Shared,
    /// Bytes that may still be sent before the scripted cut.
    budget: Option<u64>,
    /// The transaction status of ReadyForQuery.
    status: u8,
    user: String,
}

impl Connection<'_> {
    fn run(&mut self) -> Result<(), End> {
        if !self.start()? {
            return Ok(());
        }
        self.authenticate()?;
        let mut out = BytesMut::new();
        reply::message(&mut out, b'R', |body| body.put_u32(0));
        for (key, value) in &self.shared.script.parameters {
            reply::message(&mut out, b'S', |body| {
                reply::text(body, key);
                reply::text(body, value);
            });
        }
        let (process, secret) = (self.number as u32 + 1, SECRET + self.number as u32);
        reply::message(&mut out, b'K', |body| {
            body.put_u32(process);
            body.put_u32(secret);
        });
        self.ready(&mut out);
        self.send(&out)?;
        self.statements()
    }

    /// Reads the start-up packet. `false`: the connection was only a cancellation.
    fn start(&mut self) -> Result<bool, End> {
        loop {
            let mut packet = self.packet()?;
            if packet.len() < 4 {
                return Err(End::Deviation("the start-up packet is too short".into()));
            }
            match packet.get_u32() {
                SSL_REQUEST | GSS_REQUEST => self.send(b"N")?,
                CANCEL_REQUEST if packet.len() == 8 => {
                    let (process, secret) = (packet.get_u32(), packet.get_u32());
                    if process.wrapping_sub(1) == secret.wrapping_sub(SECRET) && process > 0 {
                        self.shared.seen().cancelled.push(process as usize - 1);
                        return Ok(false);
                    }
                    return Err(End::Deviation("a CancelRequest with a wrong key".into()));
                }
                VERSION_3_0 => {
                    self.startup(packet)?;
                    return Ok(true);
                }
                other => return Err(End::Deviation(format!("an unknown start-up code {other}"))),
            }
        }
    }

    fn startup(&mut self, mut packet: Bytes) -> Result<(), End> {
        let mut parameters = Vec::new();
        loop {
            let key = string(&mut packet)?;
            if key.is_empty() {
                break;
            }
            parameters.push((key, string(&mut packet)?));
        }
        let user = parameters.iter().find(|(key, _)| key == "user").map(|(_, value)| value.clone());
        self.user = user.ok_or_else(|| End::Deviation("a start without a user".into()))?;
        self.shared.seen().startups.push(parameters);
        let refusals = &self.shared.script.refusals;
        match refusals.iter().find(|(number, _, _)| *number == self.number) {
            Some((_, sqlstate, message)) => self.fatal(sqlstate, message),
            None => Ok(()),
        }
    }

    fn authenticate(&mut self) -> Result<(), End> {
        const SALT: [u8; 4] = [1, 2, 3, 4];
        match &self.shared.script.auth {
            Auth::Trust => Ok(()),
            Auth::Refuse(sqlstate, message) => self.fatal(sqlstate, message),
            Auth::Password(password) => {
                self.ask(3, &[])?;
                let given = self.password()?;
                self.judge(given == *password)
            }
            Auth::Md5(password) => {
                self.ask(5, &SALT)?;
                let given = self.password()?;
                self.judge(given == md5_hash(self.user.as_bytes(), password.as_bytes(), SALT))
            }
            Auth::Scram(password) => {
                self.ask(10, b"SCRAM-SHA-256\0\0")?;
                let mut first = self.message_of(b'p', "SASLInitialResponse")?;
                let mechanism = string(&mut first)?;
                if mechanism != "SCRAM-SHA-256" || first.len() < 4 || first.get_u32() as usize != first.len()
                {
                    return Err(End::Deviation(format!("a bad SASLInitialResponse for {mechanism:?}")));
                }
                let exchange = Exchange::begin(password, &utf8(&first)?).map_err(End::Deviation)?;
                self.ask(11, exchange.challenge().as_bytes())?;
                let last = self.message_of(b'p', "SASLResponse")?;
                match exchange.finish(&utf8(&last)?).map_err(End::Deviation)? {
                    Some(proof) => self.ask(12, proof.as_bytes()),
                    None => self.judge(false),
                }
            }
        }
    }

    /// An authentication request.
    fn ask(&mut self, kind: u32, data: &[u8]) -> Result<(), End> {
        let mut out = BytesMut::new();
        reply::message(&mut out, b'R', |body| {
            body.put_u32(kind);
            body.extend_from_slice(data);
        });
        self.send(&out)
    }

    fn password(&mut self) -> Result<String, End> {
        let mut body = self.message_of(b'p', "PasswordMessage")?;
        string(&mut body)
    }

    fn judge(&mut self, right: bool) -> Result<(), End> {
        if right {
            return Ok(());
        }
        let message = format!("password authentication failed for user \"{}\"", self.user);
        self.fatal("28P01", &message)
    }

    fn fatal(&mut self, sqlstate: &str, words: &str) -> Result<(), End> {
        let mut out = BytesMut::new();
        reply::error(&mut out, b'E', "FATAL", sqlstate, words);
        self.send(&out)?;
        Err(End::Expected)
    }

    fn statements(&mut self) -> Result<(), End> {
        loop {
            let (tag, mut body) = self.message()?;
            match tag {
                b'X' => return Ok(()),
                b'Q' => {
                    let sql = string(&mut body)?;
                    let reply = self.asked(sql, Vec::new());
                    self.play(reply, true)?;
                    self.finish_statement()?;
                }
                b'P' => self.extended(body)?,
                other => {
                    return Err(End::Deviation(format!("message {:?} instead of a query", other as char)));
                }
            }
        }
    }

    fn asked(&mut self, sql: String, parameters: Vec<Option<String>>) -> Reply {
        match sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase().as_str() {
            "BEGIN" | "START" => self.status = b'T',
            "COMMIT" | "ROLLBACK" | "END" => self.status = b'I',
            _ => {}
        }
        self.shared.reply(Query { connection: self.number, sql, parameters })
    }

    fn finish_statement(&mut self) -> Result<(), End> {
        let mut out = BytesMut::new();
        self.ready(&mut out);
        self.send(&out)
    }

    /// Parse, Bind, Describe, Execute of the unnamed statement and portal, then Sync: what a client with parameters sends.
    fn extended(&mut self, mut parse: Bytes) -> Result<(), End> {
        let name = string(&mut parse)?;
        let sql = string(&mut parse)?;
        if !name.is_empty() {
            return Err(End::Deviation(format!("a named statement {name:?}")));
        }
        let mut out = BytesMut::new();
        reply::message(&mut out, b'1', |_| {});
        let parameters = bind(self.message_of(b'B', "Bind")?)?;
        reply::message(&mut out, b'2', |_| {});
        let mut described = false;
        loop {
            let (tag, _) = self.message()?;
            match tag {
                b'D' => described = true,
                b'E' => break,
                other => {
                    return Err(End::Deviation(format!("message {:?} instead of Execute", other as char)));
                }
            }
        }
        let _ = self.message_of(b'S', "Sync")?;
        let answer = self.asked(sql, parameters);
        let rows = answer.0.iter().any(|act| matches!(act, Act::Rows { .. }));
        if described && !rows {
            reply::message(&mut out, b'n', |_| {});
        }
        self.send(&out)?;
        self.play(answer, described)?;
        self.finish_statement()
    }

    fn play(&mut self, answer: Reply, described: bool) -> Result<(), End> {
        for act in answer.0 {
            let mut out = BytesMut::new();
            match act {
                Act::Rows { columns, rows } => {
                    if described {
                        reply::row_description(&mut out, &columns);
                    }
                    rows.iter().for_each(|row| reply::data_row(&mut out, row));
                }
                Act::Complete(tag) => reply::message(&mut out, b'C', |body| reply::text(body, &tag)),
                Act::Error { severity, sqlstate, message } => {
                    if self.status == b'T' {
                        self.status = b'E';
                    }
                    reply::error(&mut out, b'E', severity, &sqlstate, &message);
                    if severity == "FATAL" {
                        self.send(&out)?;
                        return Err(End::Expected);
                    }
                }
                Act::Notice(words) => reply::error(&mut out, b'N', "NOTICE", "00000", &words),
                Act::CopyOut(chunks) => {
                    reply::copy_response(&mut out, b'H');
                    self.send(&out)?;
                    self.chunks(&chunks)?;
                    out.clear();
                    reply::message(&mut out, b'c', |_| {});
                }
                Act::CopyBoth(chunks, end) => {
                    reply::copy_response(&mut out, b'W');
                    self.send(&out)?;
                    self.chunks(&chunks)?;
                    out.clear();
                    if end == CopyEnd::Server {
                        out.clear();
                        reply::message(&mut out, b'c', |_| {});
                        self.send(&out)?;
                        out.clear();
                    }
                    self.feedback()?;
                    if end == CopyEnd::Client {
                        reply::message(&mut out, b'c', |_| {});
                    }
                }
                Act::Raw(bytes) => out.extend_from_slice(&bytes),
                Act::Delay(pause) => std::thread::sleep(pause),
                Act::Cut(bytes) => self.budget = Some(bytes),
                Act::Hang => {
                    let mut byte = [0];
                    // Whatever comes: the connection ends as the script wanted.
                    while matches!(self.stream.read(&mut byte), Ok(1)) {}
                    return Err(End::Expected);
                }
            }
            self.send(&out)?;
        }
        Ok(())
    }

    fn chunks(&mut self, chunks: &[Vec<u8>]) -> Result<(), End> {
        for chunk in chunks {
            let mut out = BytesMut::new();
            reply::message(&mut out, b'd', |body| body.extend_from_slice(chunk));
            self.send(&out)?;
        }
        Ok(())
    }

    /// Collects the client's CopyData until its CopyDone.
    fn feedback(&mut self) -> Result<(), End> {
        loop {
            match self.message()? {
                (b'd', data) => self.shared.seen().feedback.push(data.to_vec()),
                (b'c', _) => return Ok(()),
                (other, _) => {
                    return Err(End::Deviation(format!("message {:?} in a streaming copy", other as char)));
                }
            }
        }
    }

    fn ready(&self, out: &mut BytesMut) {
        reply::message(out, b'Z', |body| body.put_u8(self.status));
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        let whole = bytes.len() as u64;
        let allowed = self.budget.map_or(whole, |budget| budget.min(whole));
        self.stream.write_all(&bytes[..allowed as usize])?;
        if let Some(budget) = &mut self.budget {
            *budget -= allowed;
            if allowed < whole || (*budget == 0 && whole > 0) {
                return Err(End::Expected);
            }
        }
        Ok(())
    }

    /// A packet without a tag.
    fn packet(&mut self) -> Result<Bytes, End> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        // PostgreSQL's own bound for messages of this kind is far lower.
        if !(4..=1 << 24).contains(&length) {
            return Err(End::Deviation(format!("a message of {length} bytes")));
        }
        let mut body = vec![0; length as usize - 4];
        self.stream.read_exact(&mut body)?;
        Ok(body.into())
    }

    fn message(&mut self) -> Result<(u8, Bytes), End> {
        let mut tag = [0];
        self.stream.read_exact(&mut tag)?;
        Ok((tag[0], self.packet()?))
    }

    fn message_of(&mut self, wanted: u8, name: &str) -> Result<Bytes, End> {
        let (tag, body) = self.message()?;
        if tag == wanted {
            return Ok(body);
        }
        Err(End::Deviation(format!("message {:?} instead of {name}", tag as char)))
    }
}

/// The parameters of a Bind message for the unnamed portal and statement.
fn bind(mut body: Bytes) -> Result<Vec<Option<String>>, End> {
    let short = || End::Deviation("a Bind message that is too short".into());
    if !string(&mut body)?.is_empty() || !string(&mut body)?.is_empty() {
        return Err(End::Deviation("a named portal or statement in Bind".into()));
    }
    let formats = body.try_get_u16().map_err(|_| short())?;
    for _ in 0..formats {
        if body.try_get_u16().map_err(|_| short())? != 0 {
            return Err(End::Deviation("a parameter in binary form, which this server does not read".into()));
        }
    }
    let count = body.try_get_u16().map_err(|_| short())?;
    let mut parameters = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().map_err(|_| short())?;
        parameters.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length <= body.len() => Some(utf8(&body.split_to(length))?),
            Ok(_) => return Err(short()),
        });
    }
    Ok(parameters)
}

/// A string that ends with NUL.
fn string(body: &mut Bytes) -> Result<String, End> {
    let end = body.iter().position(|byte| *byte == 0);
    let end = end.ok_or_else(|| End::Deviation("a string without its end".into()))?;
    let text = body.split_to(end);
    body.advance(1);
    utf8(&text)
}

fn utf8(bytes: &[u8]) -> Result<String, End> {
    String::from_utf8(bytes.to_vec()).map_err(|_| End::Deviation("a text that is no UTF-8".into()))
}
