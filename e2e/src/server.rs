//! A small static HTTP server on loopback for caches: keep-alive, ranges, an access log, and a rate or a token when asked.
//! It must never listen on the machine's network, serve outside its folder, or outlive its owner.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// More connections at once than this are closed at once.
const MAX_CONNECTIONS: usize = 256;
const MAX_HEAD: u64 = 16 * 1024;

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path as asked for, such as `/nar/….nar.zst`.
    pub path: String,
    /// Status of the answer.
    pub status: u16,
    /// Bytes of the body that were written; fewer than promised where the client went away.
    pub bytes: u64,
}

/// How a server serves; by default to everybody, as fast as it can.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// What each connection sends at most in a second.
    pub bytes_per_second: Option<u64>,
    /// Whoever does not send exactly this `Authorization` is answered 401.
    pub authorization: Option<String>,
    /// Whether parts with an end are given out. Otherwise it gives out the rest of a file: what it logs is then what was needed.
    pub in_parts: bool,
}

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    terms: Terms,
    log: Mutex<Vec<Access>>,
    connections: Mutex<BTreeMap<u64, TcpStream>>,
    stopping: AtomicBool,
}

impl Server {
    /// Serves the folder on a free port of 127.0.0.1.
    pub fn start(folder: &Path) -> Result<Self> {
        Self::start_at_rate(folder, None)
    }

    /// As `start`, each connection sending at most so many bytes a second.
    pub fn start_at_rate(folder: &Path, bytes_per_second: Option<u64>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        let terms = Terms {
            bytes_per_second,
            ..Terms::default()
        };
        Self::serve(listener, folder, terms)
    }

    /// As `start_at_rate`, and it gives out parts.
    pub fn start_in_parts(folder: &Path, bytes_per_second: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        let terms = Terms {
            bytes_per_second: Some(bytes_per_second),
            in_parts: true,
            ..Terms::default()
        };
        Self::serve(listener, folder, terms)
    }

    /// As `start`, but every request without exactly that `Authorization` is answered with 401.
    pub fn start_guarded(folder: &Path, authorization: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
        let terms = Terms {
            authorization: Some(authorization.to_owned()),
            ..Terms::default()
        };
        Self::serve(listener, folder, terms)
    }

    /// Serves the folder in the network namespace of that file (`/proc/PID/ns/net`), on an address of its own.
    pub fn start_in(namespace: &Path, address: Ipv4Addr, folder: &Path, terms: Terms) -> Result<Self> {
        let namespace = File::open(namespace).with_context(|| format!("cannot open {}", namespace.display()))?;
        // A thread enters alone, and a socket stays in the namespace that it was made in.
        let bound = std::thread::spawn(move || -> Result<TcpListener> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind((address, 0)).with_context(|| format!("cannot listen on {address}"))
        });
        let listener = bound
            .join()
            .map_err(|_| anyhow!("the thread that listens panicked"))??;
        Self::serve(listener, folder, terms)
    }

    fn serve(listener: TcpListener, folder: &Path, terms: Terms) -> Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            terms,
            log: Mutex::default(),
            connections: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let accepting = Some(std::thread::spawn({
            let (shared, listener) = (Arc::clone(&shared), listener.try_clone()?);
            move || accept(&listener, &shared)
        }));
        Ok(Self {
            address,
            listener,
            shared,
            accepting,
        })
    }

    /// `http://<address>:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request answered so far, in the order in which answers ended.
    pub fn log(&self) -> Vec<Access> {
        locked(&self.shared.log).clone()
    }

    /// Forgets the log.
    pub fn clear_log(&self) {
        locked(&self.shared.log).clear();
    }

    /// Bytes of all bodies written so far.
    pub fn bytes_served(&self) -> u64 {
        locked(&self.shared.log).iter().map(|access| access.bytes).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _woken = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for connection in locked(&self.shared.connections).values() {
            let _already_closed = connection.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.accepting.take() {
            let _panicked = thread.join();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (id, stream) in (0..).zip(listener.incoming()) {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(twin) = stream.try_clone() else { continue };
        let mut connections = locked(&shared.connections);
        if connections.len() >= MAX_CONNECTIONS {
            continue;
        }
        connections.insert(id, twin);
        drop(connections);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let _client_went_away = converse(&stream, &shared);
            let _already_closed = stream.shutdown(Shutdown::Both);
            locked(&shared.connections).remove(&id);
        });
    }
}

/// Answers requests on one connection until the client closes it.
fn converse(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_request(&mut reader)? {
        let mut access = Access {
            method: request.method.clone(),
            path: request.path.clone(),
            status: 0,
            bytes: 0,
        };
        let outcome = answer(stream, shared, &request, &mut access);
        locked(&shared.log).push(access);
        outcome?;
    }
    Ok(())
}

#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    /// First byte of the range, and the last where it names one.
    range: Option<(u64, Option<u64>)>,
    authorization: Option<String>,
}

fn read_request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut head = reader.by_ref().take(MAX_HEAD);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(std::io::Error::from(ErrorKind::InvalidData));
    };
    let (mut range, mut authorization) = (None, None);
    loop {
        let mut header = String::new();
        if head.read_line(&mut header)? == 0 {
            return Ok(None);
        }
        let header = header.trim_end();
        if header.is_empty() {
            return Ok(Some(Request {
                method,
                path,
                range,
                authorization,
            }));
        }
        let (name, value) = header.split_once(": ").unwrap_or_default();
        match &*name.to_ascii_lowercase() {
            "range" => range = value.strip_prefix("bytes=").and_then(parse_range),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
}

/// `4-` and `4-7`.
fn parse_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (from, last) = range.split_once('-')?;
    let last = match last {
        "" => None,
        last => Some(last.parse().ok()?),
    };
    Some((from.parse().ok()?, last))
}

fn answer(mut stream: &TcpStream, shared: &Shared, request: &Request, access: &mut Access) -> std::io::Result<()> {
    if shared.terms.authorization.is_some() && shared.terms.authorization != request.authorization {
        access.status = 401;
        return stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n");
    }
    let opened = resolve(&shared.folder, &request.path).and_then(|path| open_file(&path));
    let Some((mut file, size)) = opened else {
        access.status = 404;
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let in_parts = shared.terms.in_parts;
    let range = request
        .range
        .filter(|(from, last)| *from < size && (in_parts || last.is_none()));
    let (start, last) = range.unwrap_or_default();
    let last = last.unwrap_or(u64::MAX).min(size.saturating_sub(1)).max(start);
    let length = if size == 0 { 0 } else { last - start + 1 };
    access.status = if range.is_some() { 206 } else { 200 };
    let status = match range {
        Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{last}/{size}"),
        None => "200 OK".to_owned(),
    };
    let parts = if in_parts { "Accept-Ranges: bytes\r\n" } else { "" };
    write!(stream, "HTTP/1.1 {status}\r\n{parts}Content-Length: {length}\r\n\r\n")?;
    if request.method == "HEAD" {
        return Ok(());
    }
    file.seek(SeekFrom::Start(start))?;
    send(stream, &mut file.take(length), shared, &mut access.bytes)
}

#[expect(clippy::disallowed_methods, reason = "a rate is kept by the clock")]
fn send(mut stream: &TcpStream, body: &mut impl Read, shared: &Shared, sent: &mut u64) -> std::io::Result<()> {
    // At a rate: a twentieth of a second's bytes, then a pause until that much time has passed.
    let rate = shared.terms.bytes_per_second;
    let step = rate.map_or(256 * 1024, |rate| (rate / 20).clamp(1, 256 * 1024));
    let mut buffer = vec![0; usize::try_from(step).unwrap_or(1)];
    let begun = Instant::now();
    loop {
        let read = body.read(&mut buffer)?;
        if read == 0 || shared.stopping.load(Ordering::SeqCst) {
            return Ok(());
        }
        stream.write_all(&buffer[..read])?;
        *sent += read as u64;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(*sent as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
}

/// The file that a request path names, if every part of it is a plain name.
fn resolve(folder: &Path, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path.split('?').next()?.trim_start_matches('/'));
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    plain.then(|| folder.join(relative))
}

/// A regular file and its size.
fn open_file(path: &Path) -> Option<(File, u64)> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some((file, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends one request and reads the answer to its end.
    fn ask(server: &Server, path: &str, header: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(server.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n{header}\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        (
            String::from_utf8_lossy(&answer[9..12]).into_owned(),
            answer[head + 4..].to_vec(),
        )
    }

    #[test]
    fn files_ranges_and_misses_are_answered_and_logged_and_nothing_above_the_folder_is_served() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("served")).unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        std::fs::write(folder.path().join("served/file"), "0123456789").unwrap();
        let server = Server::start(&folder.path().join("served")).unwrap();
        let cases = [
            ("/file", "", "200", "0123456789"),
            ("/file", "Range: bytes=4-\r\n", "206", "456789"),
            ("/file", "Range: bytes=10-\r\n", "200", "0123456789"),
            ("/absent", "", "404", ""),
            ("/../secret", "", "404", ""),
            ("//etc/passwd", "", "404", ""),
            ("/", "", "404", ""),
        ];
        for (path, header, status, body) in cases {
            assert_eq!(
                ask(&server, path, header),
                (status.to_owned(), body.as_bytes().to_vec()),
                "{path} {header}"
            );
        }
        assert_eq!(server.log().len(), cases.len());
        assert_eq!(server.bytes_served(), 26);
    }

    #[test]
    fn parts_with_an_end_are_given_out_where_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "0123456789").unwrap();
        let part = "Range: bytes=4-6\r\n";
        let whole = Server::start(folder.path()).unwrap();
        assert_eq!(ask(&whole, "/file", part), ("200".to_owned(), b"0123456789".to_vec()));
        let parts = Server::start_in_parts(folder.path(), 1 << 20).unwrap();
        assert_eq!(ask(&parts, "/file", part), ("206".to_owned(), b"456".to_vec()));
        let beyond = "Range: bytes=8-99\r\n";
        assert_eq!(ask(&parts, "/file", beyond), ("206".to_owned(), b"89".to_vec()));
    }

    #[test]
    fn a_guarded_server_answers_those_with_the_right_word_only() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        let server = Server::start_guarded(folder.path(), "Bearer Right").unwrap();
        for (header, status) in [
            ("", "401"),
            ("Authorization: Bearer wrong\r\n", "401"),
            ("Authorization: Bearer right\r\n", "401"),
            ("authorization: Bearer Right\r\n", "200"),
        ] {
            assert_eq!(ask(&server, "/file", header).0, status, "{header}");
        }
    }
}
