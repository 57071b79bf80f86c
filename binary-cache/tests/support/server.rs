//! A small HTTP/1.1 server on loopback that does exactly what a test tells it, byte by byte, well-behaved or not.
//! Never outlives its test: all threads end when it is dropped or when their time is up.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// No connection is served longer than this.
const PATIENCE: Duration = Duration::from_secs(8);

/// What the client asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }

    /// The first byte of `Range: bytes=N-M`, and the byte behind the last where there is one.
    pub(crate) fn range(&self) -> Option<(usize, Option<usize>)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let last = match last {
            "" => None,
            last => Some(last.parse::<usize>().ok()? + 1),
        };
        Some((first.parse().ok()?, last))
    }

    /// The first byte of `Range: bytes=N-`.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// Anything that bytes can be exchanged over.
pub(crate) trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// One connection, with what a server says on it.
pub(crate) struct Conn {
    wire: Box<dyn Wire>,
    socket: TcpStream,
    deadline: Instant,
    stop: Arc<AtomicBool>,
}

impl Conn {
    /// Writes as it is; false when the client has gone.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> bool {
        self.alive() && self.wire.write_all(bytes).is_ok() && self.wire.flush().is_ok()
    }

    /// A whole answer with its length.
    pub(crate) fn reply(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> bool {
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.raw((head + "\r\n").as_bytes()) && self.raw(body)
    }

    /// Says nothing until the client goes away.
    pub(crate) fn hang(&mut self) {
        while self.alive() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn pause(&self, milliseconds: u64) {
        thread::sleep(Duration::from_millis(milliseconds));
    }

    /// Ends the connection with a reset instead of an orderly end.
    pub(crate) fn reset(&mut self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        let other = self.socket.try_clone();
        drop(std::mem::replace(
            &mut self.wire,
            Box::new(std::io::Cursor::new(Vec::new())),
        ));
        drop(std::mem::replace(
            &mut self.socket,
            TcpListener::bind("127.0.0.1:0")
                .and_then(|l| TcpStream::connect(l.local_addr()?))
                .unwrap(),
        ));
        drop(other);
    }

    fn alive(&self) -> bool {
        let mut byte = [0];
        self.socket.set_nonblocking(true).unwrap();
        let peeked = self.socket.peek(&mut byte);
        self.socket.set_nonblocking(false).unwrap();
        let gone = match peeked {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        };
        !gone && !self.stop.load(Ordering::Relaxed) && Instant::now() < self.deadline
    }
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Keep,
    Close,
}

pub(crate) type Behaviour = dyn Fn(&Asked, &mut Conn) -> Then + Send + Sync;
/// Puts a layer (TLS) over an accepted socket.
pub(crate) type Wrap = dyn Fn(TcpStream) -> Option<Box<dyn Wire>> + Send + Sync;

pub(crate) struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start(behaviour: impl Fn(&Asked, &mut Conn) -> Then + Send + Sync + 'static) -> Self {
        Self::start_with(|socket| Some(Box::new(socket) as Box<dyn Wire>), behaviour)
    }

    pub(crate) fn start_with(
        wrap: impl Fn(TcpStream) -> Option<Box<dyn Wire>> + Send + Sync + 'static,
        behaviour: impl Fn(&Asked, &mut Conn) -> Then + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            stop: Arc::default(),
            connections: Arc::default(),
            asked: Arc::default(),
        };
        let (stop, connections, asked) = (server.stop.clone(), server.connections.clone(), server.asked.clone());
        let (wrap, behaviour): (Arc<Wrap>, Arc<Behaviour>) = (Arc::new(wrap), Arc::new(behaviour));
        thread::spawn(move || {
            for socket in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(socket) = socket else { continue };
                connections.fetch_add(1, Ordering::Relaxed);
                let (stop, asked, wrap, behaviour) = (stop.clone(), asked.clone(), wrap.clone(), behaviour.clone());
                thread::spawn(move || serve(socket, stop, &asked, &*wrap, &*behaviour));
            }
        });
        server
    }

    /// `http://127.0.0.1:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How often a path that ends like this was asked for.
    pub(crate) fn count(&self, end: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path.ends_with(end)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _wake_the_listener = TcpStream::connect(self.address);
    }
}

fn serve(socket: TcpStream, stop: Arc<AtomicBool>, asked: &Mutex<Vec<Asked>>, wrap: &Wrap, behaviour: &Behaviour) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let Some(wire) = wrap(socket.try_clone().unwrap()) else {
        return;
    };
    let mut conn = Conn {
        wire,
        socket,
        deadline,
        stop,
    };
    while let Some(request) = read_request(&mut conn) {
        asked.lock().unwrap().push(request.clone());
        if behaviour(&request, &mut conn) == Then::Close {
            let _ = conn.socket.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read_request(conn: &mut Conn) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() > 64 << 10 || conn.wire.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect();
    Some(Asked { path, headers })
}
