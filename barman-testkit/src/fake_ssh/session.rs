//! The connections of the scripted SSH server: who may log in, and how a command's output goes through its faults.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::PrivateKey;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Shared, Source};

/// Serves until `stopped` resolves.
pub(super) fn serve(
    listener: TcpListener,
    key: PrivateKey,
    shared: &Arc<Shared>,
    stopped: oneshot::Receiver<()>,
) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        shared.seen().deviations.push("the runtime could not be made".into());
        return;
    };
    let config = Arc::new(Config {
        keys: vec![key],
        auth_rejection_time: Duration::ZERO,
        nodelay: true,
        inactivity_timeout: None,
        ..Config::default()
    });
    runtime.block_on(async {
        tokio::select! {
            () = accept(listener, config, shared) => {}
            _ = stopped => {}
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

async fn accept(listener: TcpListener, config: Arc<Config>, shared: &Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let number = {
            let mut seen = shared.seen();
            seen.connections += 1;
            seen.connections
        };
        if number <= shared.script.refused_connections {
            continue;
        }
        // A second handle of the socket: the way to cut the connection below the protocol.
        let Ok(stream) = stream.into_std() else { continue };
        let (Ok(socket), Ok(kept)) = (stream.try_clone(), stream.try_clone()) else { continue };
        shared.seen().sockets.push(kept);
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { continue };
        let handler = Connection {
            shared: Arc::clone(shared),
            socket: Arc::new(socket),
            channels: HashMap::new(),
            opened: 0,
        };
        let config = Arc::clone(&config);
        tokio::spawn(async move {
            if let Ok(session) = russh::server::run_stream(config, stream, handler).await {
                // How the connection ends is the client's to judge.
                let _ = session.await;
            }
        });
    }
}

struct Connection {
    shared: Arc<Shared>,
    socket: Arc<TcpStream>,
    channels: HashMap<ChannelId, Channel<Msg>>,
    opened: usize,
}

impl Connection {
    fn judge(&self, accepted: bool) -> Result<Auth, russh::Error> {
        if accepted {
            self.shared.seen().logins += 1;
            return Ok(Auth::Accept);
        }
        Ok(Auth::reject())
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(self.shared.script.banner.clone())
    }

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, Self::Error> {
        self.judge(self.shared.script.password.as_deref() == Some(password))
    }

    async fn auth_publickey(&mut self, _user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let right = key.public_key.key_data() == self.shared.client_key.key_data();
        self.judge(right && !self.shared.script.refuse_keys)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if self.shared.script.channels.is_some_and(|most| self.opened >= most) {
            // Dropping the reply refuses.
            return Ok(());
        }
        self.opened += 1;
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let command = String::from_utf8_lossy(data).into_owned();
        let answer = self.shared.answer(&command);
        let Some(channel_parts) = self.channels.remove(&channel) else {
            self.shared.seen().deviations.push(format!("{command:?} on a channel that ran one before"));
            return session.channel_failure(channel);
        };
        if answer.source == Source::Refused {
            session.channel_failure(channel)?;
            return session.close(channel);
        }
        session.channel_success(channel)?;
        let (input, output) = channel_parts.split();
        let stream = Outgoing {
            channel: output,
            sent: 0,
            cut_after: answer.cut_after,
            stall_after: answer.stall_after,
            socket: Arc::clone(&self.socket),
        };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move { play(answer, command, input, stream, &shared).await });
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.shared.seen().commands.push(format!("subsystem {name}"));
        session.channel_failure(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        self.shared.seen().deviations.push("an interactive shell was asked for".into());
        session.channel_failure(channel)
    }
}

/// stdout on its way to the client, with the scripted faults.
struct Outgoing {
    channel: ChannelWriteHalf<Msg>,
    sent: u64,
    cut_after: Option<u64>,
    stall_after: Option<u64>,
    socket: Arc<TcpStream>,
}

/// The output does not go on: the connection is gone.
struct Gone;

impl Outgoing {
    async fn stdout(&mut self, mut data: &[u8]) -> Result<(), Gone> {
        loop {
            let limit = [self.cut_after, self.stall_after].into_iter().flatten().min();
            let room = limit.map_or(u64::MAX, |limit| limit - self.sent);
            if room == 0 {
                if self.cut_after == limit {
                    return self.cut().await;
                }
                std::future::pending::<()>().await;
            }
            if data.is_empty() {
                return Ok(());
            }
            let piece = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            self.channel.data_bytes(data[..piece].to_vec()).await.map_err(|_| Gone)?;
            self.sent += piece as u64;
            data = &data[piece..];
        }
    }

    async fn cut(&mut self) -> Result<(), Gone> {
        // What was sent before lies in the session's queue: it shall go out first.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = self.socket.shutdown(Shutdown::Both);
        Err(Gone)
    }

    async fn stderr(&mut self, data: Vec<u8>) -> Result<(), Gone> {
        self.channel.extended_data_bytes(1, data).await.map_err(|_| Gone)
    }

    async fn end(&mut self, status: Option<u32>) {
        if let Some(status) = status {
            let _ = self.channel.exit_status(status).await;
        }
        let _ = self.channel.eof().await;
        let _ = self.channel.close().await;
    }
}

async fn play(answer: Answer, command: String, input: ChannelReadHalf, mut out: Outgoing, shared: &Shared) {
    tokio::time::sleep(answer.pause).await;
    // A limit of 0 bytes holds before the first one.
    if out.stdout(&answer.noise).await.is_err() {
        return;
    }
    let status = match &answer.source {
        Source::Refused => return,
        Source::Text { stdout, stderr } => {
            let drained = tokio::spawn(drain(input, None));
            let sent = async {
                out.stdout(stdout).await?;
                if stderr.is_empty() { Ok(()) } else { out.stderr(stderr.clone()).await }
            };
            let ended = sent.await;
            drained.abort();
            ended.map(|()| 0)
        }
        Source::Shell => shell(&command, input, &mut out, shared).await,
    };
    if let Ok(status) = status {
        let told = answer.status.unwrap_or(status);
        out.end((!answer.without_status).then_some(told)).await;
    }
}

/// Reads what the client sends and hands it on until its end.
async fn drain(mut input: ChannelReadHalf, stdin: Option<mpsc::Sender<Vec<u8>>>) {
    while let Some(message) = input.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                if let Some(stdin) = &stdin {
                    // The command may have closed its stdin; the rest is dropped, as by a pipe nobody reads.
                    let _ = stdin.send(data.to_vec()).await;
                }
            }
            ChannelMsg::Eof | ChannelMsg::Close => break,
            _ => {}
        }
    }
}

/// Runs the command with `/bin/sh`, its three streams on threads.
async fn shell(
    command: &str,
    input: ChannelReadHalf,
    out: &mut Outgoing,
    shared: &Shared,
) -> Result<u32, Gone> {
    let spawned = shared
        .account
        .command("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            out.stderr(format!("/bin/sh: {error}\n").into_bytes()).await?;
            return Ok(126);
        }
    };
    let (to_stdin, mut stdin_chunks) = mpsc::channel::<Vec<u8>>(4);
    if let Some(mut stdin) = child.stdin.take() {
        std::thread::spawn(move || {
            while let Some(chunk) = stdin_chunks.blocking_recv() {
                if stdin.write_all(&chunk).is_err() {
                    break;
                }
            }
        });
    }
    let reading = tokio::spawn(drain(input, Some(to_stdin)));
    let (sender, mut pieces) = mpsc::channel::<(bool, Vec<u8>)>(4);
    if let Some(stdout) = child.stdout.take() {
        pump(stdout, true, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        pump(stderr, false, sender);
    }
    let mut sent = Ok(());
    while let Some((is_stdout, piece)) = pieces.recv().await {
        sent = if is_stdout { out.stdout(&piece).await } else { out.stderr(piece).await };
        if sent.is_err() {
            break;
        }
    }
    reading.abort();
    if sent.is_err() {
        let _ = child.kill();
    }
    let status = tokio::task::spawn_blocking(move || child.wait()).await;
    sent?;
    // As OpenSSH tells of a command ended by a signal when it cannot name it.
    Ok(status.ok().and_then(Result::ok).and_then(|s| s.code()).map_or(255, |code| code as u32))
}

fn pump(mut stream: impl Read + Send + 'static, is_stdout: bool, sender: mpsc::Sender<(bool, Vec<u8>)>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 || sender.blocking_send((is_stdout, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
}
