//! [`Proxy`]: a TCP proxy in front of a real server whose wire can be cut, stalled and slowed down.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{IoContext, Result};

/// How often a stalled wire looks whether it may go on.
const LOOK: Duration = Duration::from_millis(5);

/// The proxy; it ends when it is dropped, and cuts what goes through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wire: Arc<Wire>,
}

#[derive(Debug)]
struct Wire {
    target: Mutex<SocketAddr>,
    refuses: AtomicBool,
    stalled: AtomicBool,
    delay: AtomicU64,
    /// Bytes towards the client after which the wire is cut; `u64::MAX` never.
    budget: AtomicU64,
    connections: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
    ends: AtomicBool,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, in front of another port there.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn before(port: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen", "127.0.0.1")?;
        let address = listener.local_addr().context("listen", "127.0.0.1")?;
        let wire = Arc::new(Wire {
            target: Mutex::new(SocketAddr::from(([127, 0, 0, 1], port))),
            refuses: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            delay: AtomicU64::new(0),
            budget: AtomicU64::new(u64::MAX),
            connections: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
            ends: AtomicBool::new(false),
        });
        let serving = Arc::clone(&wire);
        std::thread::spawn(move || serve(&listener, &serving));
        Ok(Proxy { address, wire })
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// A connection string through the proxy.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port())
    }

    /// Later connections go to another port: a virtual address that moves to a new primary.
    pub fn redirect(&self, port: u16) {
        *self.wire.target.lock().unwrap_or_else(PoisonError::into_inner) =
            SocketAddr::from(([127, 0, 0, 1], port));
    }

    /// Cuts all connections now (both ends see them closed). New ones can be made.
    pub fn cut(&self) {
        for stream in self.wire.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Cuts all connections after so many more bytes towards the client, in the middle of a message most likely.
    pub fn cut_after(&self, bytes: u64) {
        self.wire.budget.store(bytes, Ordering::SeqCst);
    }

    /// While set, new connections are closed at once.
    pub fn refuse(&self, refuses: bool) {
        self.wire.refuses.store(refuses, Ordering::SeqCst);
    }

    /// While set, nothing passes in either direction, and nothing is closed: a dead wire.
    pub fn stall(&self, stalled: bool) {
        self.wire.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Each piece (at most 64 KiB) towards the client waits so long.
    pub fn delay(&self, pause: Duration) {
        self.wire.delay.store(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// How many connections were made.
    pub fn connections(&self) -> u64 {
        self.wire.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wire.ends.store(true, Ordering::SeqCst);
        self.stall(false);
        self.cut();
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(listener: &TcpListener, wire: &Arc<Wire>) {
    for client in listener.incoming() {
        if wire.ends.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        if wire.refuses.load(Ordering::SeqCst) {
            continue;
        }
        let target = *wire.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(server) = TcpStream::connect(target) else { continue };
        wire.connections.fetch_add(1, Ordering::SeqCst);
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { continue };
        {
            let mut open = wire.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.extend([client.try_clone(), server.try_clone()].into_iter().flatten());
        }
        let (one, other) = (Arc::clone(wire), Arc::clone(wire));
        std::thread::spawn(move || pump(from_client, server, &one, false));
        std::thread::spawn(move || pump(from_server, client, &other, true));
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, wire: &Wire, to_client: bool) {
    let _ = carry(&mut from, &mut to, wire, to_client);
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn carry(from: &mut TcpStream, to: &mut TcpStream, wire: &Wire, to_client: bool) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        while wire.stalled.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
        }
        let mut pass = n;
        if to_client {
            std::thread::sleep(Duration::from_micros(wire.delay.load(Ordering::SeqCst)));
            let left = wire.budget.load(Ordering::SeqCst);
            if left != u64::MAX {
                pass = n.min(usize::try_from(left).unwrap_or(usize::MAX));
                wire.budget.store(if pass < n { u64::MAX } else { left - pass as u64 }, Ordering::SeqCst);
            }
        }
        to.write_all(buffer.get(..pass).unwrap_or_default())?;
        if pass < n {
            return Ok(());
        }
    }
}
