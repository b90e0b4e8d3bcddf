//! An S3 store that misbehaves on purpose: a proxy on loopback that answers wrongly, late or not at all.
//!
//! In: calls of HTTP/1.1 with a content length, as S3 clients make them. Out: the store's own answers, but for every nth call.
//!
//! | fault         | the store                                  | the caller                                  |
//! |---------------|---------------------------------------------|---------------------------------------------|
//! | `Unavailable` | hears nothing                               | is told 503 and to slow down                |
//! | `Forbidden`   | hears nothing                               | is told 403: trying again is of no use      |
//! | `Silent`      | does as it was asked                        | hears nothing: the connection ends          |
//! | `Slow`        | hears of it half a second later             | waits so long                               |
//! | `Hold`        | hears of it when another fault is set       | waits so long: it is at work until then     |
//! | `HoldWrites`  | the same of calls that put something        | reads on, and waits when it writes          |
//!
//! Signatures stay good: they cover the `Host` that the caller used, and that is passed on. One call a connection: how
//! bodies are framed need not be understood then.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

const DELAY: Duration = Duration::from_millis(500);
const SLOW_DOWN: &str =
    "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
const ACCESS_DENIED: &str = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// 503.
    Unavailable,
    /// 403.
    Forbidden,
    /// Done, but never answered.
    Silent,
    /// Late.
    Slow,
    /// Not before another fault is set.
    Hold,
    /// The same for calls that put something; the others meet no fault.
    HoldWrites,
}

/// Which calls meet which fault.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    fault: Fault,
    every: u64,
    /// Only calls with this in their first line.
    about: String,
}

struct State {
    store: SocketAddr,
    plan: Mutex<Plan>,
    /// Told of every new plan.
    planned: Condvar,
    calls: AtomicU64,
    fired: AtomicU64,
    stop: AtomicBool,
}

/// A proxy; it ends when dropped.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
}

impl Proxy {
    /// Listens before the store at `http://host:port`, without faults at first.
    ///
    /// # Errors
    /// When the address is none or no socket is to be had.
    pub fn start(store: &str) -> io::Result<Self> {
        let store = store.trim_start_matches("http://").trim_end_matches('/');
        let store = store.parse().map_err(io::Error::other)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            store,
            plan: Mutex::new(Plan {
                fault: Fault::None,
                every: 1,
                about: String::new(),
            }),
            planned: Condvar::new(),
            calls: AtomicU64::new(0),
            fired: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for caller in listener.incoming() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let state = Arc::clone(&shared);
                // A caller that hangs up has what it wants.
                std::thread::spawn(move || caller.and_then(|caller| state.serve(caller)).ok());
            }
        });
        Ok(Self { state, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every `every`th call meets this fault.
    pub fn set(&self, fault: Fault, every: u64) {
        self.plan(fault, every, "");
    }

    /// From now on every call about an object with this in its key meets this fault.
    pub fn set_for(&self, fault: Fault, key: &str) {
        self.plan(fault, 1, key);
    }

    fn plan(&self, fault: Fault, every: u64, about: &str) {
        *self.state.plan.lock() = Plan {
            fault,
            every: every.max(1),
            about: about.to_owned(),
        };
        self.state.planned.notify_all();
    }

    /// Calls that met a fault.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.state.fired.load(Ordering::Relaxed)
    }

    /// All calls.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        self.set(Fault::None, 1);
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn fault(&self, head: &[u8]) -> Fault {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let Plan { fault, every, about } = self.plan.lock().clone();
        let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let is_meant = String::from_utf8_lossy(first).contains(&about);
        let spared = fault == Fault::HoldWrites && !(head.starts_with(b"PUT ") || head.starts_with(b"POST "));
        if fault == Fault::None || spared || !is_meant || !call.is_multiple_of(every) {
            return Fault::None;
        }
        self.fired.fetch_add(1, Ordering::Relaxed);
        fault
    }

    fn serve(&self, caller: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(caller.try_clone()?);
        let (head, length) = head(&mut reader)?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let fault = self.fault(&head);
        let mut caller = caller;
        match fault {
            Fault::Unavailable => return refuse(caller, "503 Service Unavailable", SLOW_DOWN),
            Fault::Forbidden => return refuse(caller, "403 Forbidden", ACCESS_DENIED),
            Fault::Slow => std::thread::sleep(DELAY),
            Fault::Hold | Fault::HoldWrites => {
                let mut plan = self.plan.lock();
                self.planned.wait_while(&mut plan, |plan| plan.fault == fault);
            }
            Fault::None | Fault::Silent => {}
        }
        let mut store = TcpStream::connect(self.store)?;
        store.write_all(&head)?;
        store.write_all(&body)?;
        if fault == Fault::Silent {
            io::copy(&mut store, &mut io::sink())?;
            return Ok(());
        }
        io::copy(&mut store, &mut caller)?;
        Ok(())
    }
}

fn refuse(mut caller: TcpStream, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(
        caller,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A call's head as the store is to see it, and how long its body is.
fn head(reader: &mut impl BufRead) -> io::Result<(Vec<u8>, usize)> {
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line == "\r\n" {
            head.extend_from_slice(b"Connection: close\r\n\r\n");
            return Ok((head, length));
        }
        if !name.eq_ignore_ascii_case("connection") {
            head.extend_from_slice(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that says `done` to everything.
    fn store() -> (SocketAddr, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, served) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&served);
        std::thread::spawn(move || {
            for caller in listener.incoming() {
                let mut caller = caller.unwrap();
                let (_, length) = head(&mut BufReader::new(caller.try_clone().unwrap())).unwrap();
                assert!(length < 100);
                count.fetch_add(1, Ordering::SeqCst);
                caller
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")
                    .unwrap();
            }
        });
        (address, served)
    }

    fn call(proxy: &Proxy) -> String {
        let mut socket = TcpStream::connect(proxy.address).unwrap();
        socket
            .write_all(b"PUT /x HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\nhi")
            .unwrap();
        let mut answer = String::new();
        // A connection that is cut is an answer too: an empty one.
        let _ = socket.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn every_second_call_meets_the_fault_and_a_silent_store_has_done_what_it_was_asked() {
        let (address, served) = store();
        let proxy = Proxy::start(&format!("http://{address}")).unwrap();
        assert!(call(&proxy).ends_with("done"));
        proxy.set(Fault::Unavailable, 1);
        assert!(call(&proxy).starts_with("HTTP/1.1 503"));
        assert_eq!(served.load(Ordering::SeqCst), 1);
        proxy.set(Fault::Silent, 2);
        let answers = [call(&proxy), call(&proxy)];
        assert_eq!(answers.iter().filter(|answer| answer.is_empty()).count(), 1);
        assert_eq!(served.load(Ordering::SeqCst), 3);
        assert_eq!((proxy.calls(), proxy.fired()), (4, 2));
    }

    #[test]
    fn a_fault_may_be_for_some_objects_only() {
        let (address, served) = store();
        let proxy = Proxy::start(&format!("http://{address}")).unwrap();
        proxy.set_for(Fault::Forbidden, "/y");
        assert!(call(&proxy).ends_with("done"));
        proxy.set_for(Fault::Forbidden, "/x");
        assert!(call(&proxy).starts_with("HTTP/1.1 403"));
        assert_eq!((served.load(Ordering::SeqCst), proxy.fired()), (1, 1));
    }

    #[test]
    fn a_call_that_is_held_reaches_the_store_when_the_fault_is_lifted() {
        let (address, served) = store();
        let proxy = Proxy::start(&format!("http://{address}")).unwrap();
        proxy.set(Fault::Hold, 1);
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| call(&proxy));
            while proxy.fired() == 0 {
                std::thread::yield_now();
            }
            assert!(!caller.is_finished());
            assert_eq!(served.load(Ordering::SeqCst), 0);
            proxy.set(Fault::None, 1);
            assert!(caller.join().unwrap().ends_with("done"));
        });
    }
}
