//! A way to a service that can be told to fail, in the ways that networks do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nobody listens, and what was connected is cut.
    Refuse,
    /// Connections are made and stand still, and are cut when it is over.
    Hang,
    /// Cut after some thousand bytes of a request.
    Cut,
    /// The service hears and does, and its answer is lost.
    Mute,
    /// 503 to everything.
    Unavailable,
    /// Requests to copy an object are cut off; everything else goes through.
    NoCopy,
    /// A thin line: some hundred KB a second.
    Slow,
    /// Delays, half messages, and cuts at random.
    Rough,
    /// Of four COMMITs of cuts in PostgreSQL's protocol three lose their answers: see [`Commits`].
    Ambiguous,
}

/// What became of the COMMITs whose answers were lost.
#[derive(Default)]
pub struct Commits {
    /// Done, and the answer lost.
    pub done: AtomicU64,
    /// Done when the client was long gone.
    pub late: AtomicU64,
    /// Never heard by the server, which rolled back.
    pub never: AtomicU64,
}

/// Bytes of requests that a connection carries before it is cut.
const CUT_AFTER: usize = 3_000;
const SLOW_PIECE: usize = 4 << 10;
const SLOW_WAIT: Duration = Duration::from_millis(10);
/// So long a COMMIT is late.
const LATE: Duration = Duration::from_millis(400);
/// How PostgreSQL is asked for it.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// The header of a request to copy.
const COPY: &[u8] = b"x-amz-copy-source";

pub struct Proxy {
    pub address: SocketAddr,
    fault: watch::Sender<Fault>,
    met: Arc<AtomicU64>,
    pub commits: Arc<Commits>,
}

impl Proxy {
    /// To `service`, an address with a port.
    pub fn start(runtime: &tokio::runtime::Runtime, service: &str) -> Self {
        let listen = TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(listen).expect("a free port");
        let address = listener.local_addr().expect("address");
        let (fault, heard) = watch::channel(Fault::None);
        let met = Arc::new(AtomicU64::new(0));
        let commits = Arc::new(Commits::default());
        let way = Way { service: service.into(), met: met.clone(), commits: commits.clone() };
        runtime.spawn(serve(listener, address, way, heard));
        Self { address, fault, met, commits }
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How often a connection, a request or an answer met a fault.
    pub fn met(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Way {
    service: Arc<str>,
    met: Arc<AtomicU64>,
    commits: Arc<Commits>,
}

impl Way {
    fn meet(&self) {
        self.met.fetch_add(1, Ordering::Relaxed);
    }
}

async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    way: Way,
    mut fault: watch::Receiver<Fault>,
) {
    let mut listener = Some(listener);
    loop {
        let refuses = *fault.borrow_and_update() == Fault::Refuse;
        match &listener {
            Some(_) if refuses => listener = None,
            None if !refuses => {
                listener = Some(TcpListener::bind(address).await.expect("the same port again"));
            }
            None => {
                if fault.changed().await.is_err() {
                    return;
                }
            }
            Some(open) => tokio::select! {
                changed = fault.changed() => if changed.is_err() { return },
                client = open.accept() => {
                    let (client, _) = client.expect("accept");
                    tokio::spawn(carry(client, way.clone(), fault.clone()));
                }
            },
        }
    }
}

/// One connection, until either end or a fault ends it.
async fn carry(mut client: TcpStream, way: Way, mut fault: watch::Receiver<Fault>) -> Option<()> {
    if *fault.borrow() == Fault::Unavailable {
        way.meet();
        return unavailable(client).await;
    }
    let mut server = TcpStream::connect(&*way.service).await.ok()?;
    let (mut request, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut carried = 0;
    let mut takes = false;
    loop {
        let now = *fault.borrow_and_update();
        match now {
            Fault::Refuse | Fault::Unavailable => {
                way.meet();
                drop(client);
                return linger(server).await;
            }
            Fault::Hang => {
                way.meet();
                fault.changed().await.ok()?;
                drop(client);
                return linger(server).await;
            }
            Fault::None
            | Fault::Cut
            | Fault::Mute
            | Fault::NoCopy
            | Fault::Slow
            | Fault::Rough
            | Fault::Ambiguous => {}
        }
        tokio::select! {
            changed = fault.changed() => changed.ok()?,
            read = client.read(&mut request) => {
                let read = read.ok().filter(|n| *n > 0)?;
                carried += read;
                if now == Fault::Cut && carried > CUT_AFTER {
                    way.meet();
                    return None;
                }
                let bytes = &request[..read];
                let is_copy = || bytes.windows(COPY.len()).any(|w| w.eq_ignore_ascii_case(COPY));
                if now == Fault::NoCopy && is_copy() {
                    way.meet();
                    return None;
                }
                if now == Fault::Ambiguous && ends_cut(bytes, &mut takes) {
                    // The fourth goes through, so that all goes on.
                    let turn = way.met.fetch_add(1, Ordering::Relaxed) % 4;
                    if turn < 3 {
                        return lose_commit(turn, way, client, server, bytes).await;
                    }
                }
                pass(&mut server, bytes, now, &way).await?;
            }
            read = server.read(&mut answer) => {
                let read = read.ok().filter(|n| *n > 0)?;
                if now == Fault::Mute {
                    way.meet();
                    return None;
                }
                pass(&mut client, &answer[..read], now, &way).await?;
            }
        }
    }
}

async fn pass(to: &mut TcpStream, bytes: &[u8], now: Fault, way: &Way) -> Option<()> {
    match now {
        Fault::Slow => {
            way.meet();
            for piece in bytes.chunks(SLOW_PIECE) {
                tokio::time::sleep(SLOW_WAIT).await;
                to.write_all(piece).await.ok()?;
            }
            Some(())
        }
        Fault::Rough => {
            let (dice, wait) = (rand::random::<u8>(), rand::random::<u8>());
            if dice < 2 {
                way.meet();
                let _ = to.write_all(&bytes[..bytes.len() / 2]).await;
                return None;
            }
            if dice < 32 {
                tokio::time::sleep(Duration::from_millis(wait.into())).await;
            }
            to.write_all(bytes).await.ok()
        }
        _ => to.write_all(bytes).await.ok(),
    }
}

/// Whether this is the COMMIT of a cut. A transaction that takes partitions names their owner,
/// which begins with the host's name; `takes` remembers that from message to message.
fn ends_cut(bytes: &[u8], takes: &mut bool) -> bool {
    let host = std::fs::read("/proc/sys/kernel/hostname").expect("a host name");
    let owner = [host.trim_ascii(), b"/"].concat();
    *takes |= bytes.windows(owner.len()).any(|window| window == owner);
    bytes.ends_with(COMMIT) && !std::mem::take(takes)
}

async fn lose_commit(
    turn: u64,
    way: Way,
    client: TcpStream,
    mut server: TcpStream,
    bytes: &[u8],
) -> Option<()> {
    let commits = &way.commits;
    match turn {
        0 => {
            server.write_all(bytes).await.ok()?;
            count_if_done(&mut server, &commits.done).await;
            drop(client);
        }
        1 => {
            drop(client);
            tokio::time::sleep(LATE).await;
            server.write_all(bytes).await.ok()?;
            count_if_done(&mut server, &commits.late).await;
        }
        _ => {
            commits.never.fetch_add(1, Ordering::Relaxed);
        }
    }
    Some(())
}

/// A COMMIT is answered with its own name, or with ROLLBACK or an error.
async fn count_if_done(server: &mut TcpStream, done: &AtomicU64) {
    let mut answer = [0; 1024];
    let read = server.read(&mut answer).await.unwrap_or(0);
    if answer[..read].windows(7).any(|window| window == b"COMMIT\0") {
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// What was asked is done and its answer lost, as where packets get lost on the way: the service
/// does not see its client go. (MinIO breaks off a completion whose client went, and has lost the
/// parts then: each later completion is an InvalidPart.)
async fn linger(mut server: TcpStream) -> Option<()> {
    let mut answer = vec![0; 64 << 10];
    let read = async { while server.read(&mut answer).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(Duration::from_secs(5), read).await.ok()
}

/// Reads what comes, so that the answer is not lost with an unread request.
async fn unavailable(mut client: TcpStream) -> Option<()> {
    let mut request = vec![0; 64 << 10];
    loop {
        let read = client.read(&mut request);
        match tokio::time::timeout(Duration::from_millis(50), read).await {
            Ok(Ok(0) | Err(_)) => return None,
            Ok(Ok(_)) => {}
            Err(_) => break,
        }
    }
    let answer =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    client.write_all(answer.as_bytes()).await.ok()
}
