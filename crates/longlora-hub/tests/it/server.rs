//! As much of an HTTP server as a test needs: one request per connection, answers that break off where they are told to.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A request, as far as it matters.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let there = |(header, _): &&(String, String)| header.eq_ignore_ascii_case(name);
        self.headers.iter().find(there).map(|(_, value)| value.as_str())
    }
}

/// What the server says. The length is told of the whole body, even if it is cut.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) cut: Option<usize>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server on a port of this machine, until it is dropped.
pub(crate) struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its own port").port();
        let (seen, ended) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (log, end): (Arc<Mutex<Vec<Request>>>, _) = (Arc::clone(&seen), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                // A client that hangs up in the middle is its own business.
                let _ = stream.and_then(|stream| serve(stream, &log, &answer));
            }
        });
        Self { port, seen, ended, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Request> {
        std::mem::take(&mut self.seen.lock().expect("no handler panicked"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes the thread up
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: &impl Fn(&Request) -> Answer,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    for line in lines {
        match line?.split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    let request = Request { method, path, headers };
    let Answer { status, headers, body, cut } = answer(&request);
    let mut reply = format!("HTTP/1.1 {status} -\r\nConnection: close\r\n");
    for (name, value) in &headers {
        reply += &format!("{name}: {value}\r\n");
    }
    reply += &format!("Content-Length: {}\r\n\r\n", body.len());
    let sent = if request.method == "HEAD" { 0 } else { cut.unwrap_or(body.len()) };
    log.lock().expect("no handler panicked").push(request);
    let mut stream = stream;
    stream.write_all(reply.as_bytes())?;
    stream.write_all(&body[..sent])
}
