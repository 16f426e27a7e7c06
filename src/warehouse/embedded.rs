//! The edge to PostgreSQL within the process ⇄: a Unix socket in front of the crate oliphaunt-wasix.
//!
//! Owns: two threads (accepting, and the one that PostgreSQL runs on), the socket, the lock of the
//! data directory. Does not own: any statement; `postgres` reaches it as it reaches any server.
//!
//! E-1  One client at a time. The next one waits up to [`HANDOVER`], then is refused with 53300,
//!      which is `Retry`: never left hanging.
//! E-2  A client that fails, at whatever point, ends its own session and nothing else.
//! E-3  After drop, both threads have ended and the directory can be opened again.
//!
//! Limits, all of them of a database with a single backend: no autovacuum, so tables that are
//! updated for days grow; advisory locks exclude nobody; one core, some times slower than a server.
//! The crate ends a session without a shutdown checkpoint, so each one begins with recovery, which
//! syncs some 2,000 files: half a second on a quiet disk, several on a busy one.
//! It is for `demo`, for trying out and for tests. The data directory belongs to this very version.

use crate::error::{Error, Result};
use oliphaunt_wasix::{
    DatabaseStorage,
    session::{
        PostgresConfig, PreparedDatabase, PreparedRuntime, ProtocolPumpOutcome, ProtocolSession,
        ProtocolStream, StartupConfig, default_catalog_profile,
    },
};
use std::{
    fs,
    io::{self, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::DirBuilderExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long a client waits for the one before it: a transaction that is still being rolled back.
const HANDOVER: Duration = Duration::from_secs(5);
/// How long a client may take to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// PostgreSQL recurses deeper than a thread's 2 MiB.
const STACK_BYTES: usize = 16 << 20;
/// PostgreSQL's own limits of a first packet and of any later message.
const STARTUP_BYTES_MAX: usize = 10_000;
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// The socket's name is libpq's; a directory's name must leave room within 108 bytes.
const SOCKET: &str = ".s.PGSQL.5432";

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A running database; dropping it ends it.
pub struct Server {
    socket_directory: PathBuf,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stopping: AtomicBool,
    /// The client being served, so that stopping can end its session.
    client: Mutex<Option<UnixStream>>,
    /// Told when `client` becomes None.
    free: Condvar,
}

impl Shared {
    fn client(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.client.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A client that has introduced itself, and the packet in which it did.
type Client = (UnixStream, Vec<u8>);

impl Server {
    /// Opens the database in `directory`, or makes one there. Blocks for a second or so.
    ///
    /// # Errors
    /// `Config`: not a data directory of this version, not writable, or in use by another process.
    pub fn start(directory: &Path) -> Result<Self> {
        let wrong = |why: String| {
            Error::config(format!(
                "the embedded database cannot be opened, directory={}: {why}",
                directory.display()
            ))
        };
        let socket_directory = make_socket_directory().map_err(|e| wrong(e.to_string()))?;
        let listener = UnixListener::bind(socket_directory.join(SOCKET));
        let listener = listener.map_err(|e| wrong(e.to_string()))?;
        let shared = Arc::new(Shared {
            stopping: AtomicBool::new(false),
            client: Mutex::new(None),
            free: Condvar::new(),
        });
        // A rendezvous: the accepting thread hands over only what is being served.
        let (clients, served) = mpsc::sync_channel::<Client>(0);
        let (opened, opening) = mpsc::channel();
        let backend = {
            let (directory, shared) = (directory.to_owned(), shared.clone());
            move || run_backend(&directory, &shared, &served, &opened)
        };
        let acceptor = {
            let shared = shared.clone();
            move || accept_all(&listener, &shared, &clients)
        };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(work)
        };
        let mut server = Self { socket_directory, shared, threads: Vec::new() };
        for (name, work) in [
            ("embedded-postgres", Box::new(backend) as Box<dyn FnOnce() + Send>),
            ("embedded-accept", Box::new(acceptor)),
        ] {
            server.threads.push(spawn(name, work).map_err(|e| wrong(e.to_string()))?);
        }
        match opening.recv() {
            Ok(Ok(())) => Ok(server),
            Ok(Err(error)) => Err(wrong(error)),
            Err(_) => Err(wrong("its thread ended".into())),
        }
    }

    /// For the client's `host=`.
    pub fn socket_directory(&self) -> &Path {
        &self.socket_directory
    }
}

impl Drop for Server {
    /// SUBTLE: `stopping` goes first, so that nobody is served after the client at hand is cut off;
    /// then the accepting thread is woken by a connection, ends, and drops its end of the channel,
    /// which ends the backend's thread after its session.
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(client) = &*self.shared.client() {
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
        let _ = UnixStream::connect(self.socket_directory.join(SOCKET));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let _ = fs::remove_dir_all(&self.socket_directory);
    }
}

/// In /tmp whatever TMPDIR says, for a short name; ours alone, since a client needs no password.
fn make_socket_directory() -> io::Result<PathBuf> {
    let name = uuid::Uuid::new_v4().simple().to_string();
    let directory = PathBuf::from(format!("/tmp/highwater-{}", &name[..12]));
    fs::DirBuilder::new().mode(0o700).create(&directory)?;
    Ok(directory)
}

fn accept_all(listener: &UnixListener, shared: &Shared, clients: &mpsc::SyncSender<Client>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        if let Err(error) = stream.map_err(AnyError::from).and_then(|s| admit(s, shared, clients)) {
            tracing::warn!(%error, "the embedded database turned a client away");
        }
    }
}

fn admit(
    mut stream: UnixStream,
    shared: &Shared,
    clients: &mpsc::SyncSender<Client>,
) -> Result<(), AnyError> {
    stream.set_read_timeout(Some(INTRODUCTION))?;
    let Some(packet) = introduction(&mut stream)? else { return Ok(()) };
    stream.set_read_timeout(None)?;
    let waited = shared.free.wait_timeout_while(shared.client(), HANDOVER, |c| c.is_some());
    let (mut client, _) = waited.unwrap_or_else(|e| e.into_inner());
    if client.is_some() {
        return refuse(
            &mut stream,
            "53300",
            "the embedded database serves one connection at a time",
        );
    }
    *client = Some(stream.try_clone()?);
    drop(client);
    clients.send((stream, packet)).map_err(|mpsc::SendError((mut stream, _))| {
        *shared.client() = None;
        let _ = refuse(&mut stream, "58000", "the embedded database has stopped");
        "its thread has ended".into()
    })
}

/// A fatal ErrorResponse.
fn refuse(stream: &mut UnixStream, sqlstate: &str, message: &str) -> Result<(), AnyError> {
    let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0");
    let mut out = vec![b'E'];
    out.extend_from_slice(&(fields.len() as i32 + 4).to_be_bytes());
    out.extend_from_slice(fields.as_bytes());
    Ok(stream.write_all(&out)?)
}

/// The startup packet; None for a request to cancel, which a single backend cannot see in time.
fn introduction(stream: &mut UnixStream) -> Result<Option<Vec<u8>>, AnyError> {
    const CANCEL: i32 = 80_877_102;
    const TLS: i32 = 80_877_103;
    const GSS: i32 = 80_877_104;
    loop {
        let mut head = [0; 8];
        stream.read_exact(&mut head)?;
        let [length, code] = [&head[..4], &head[4..]]
            .map(|word| i32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        let length = usize::try_from(length).unwrap_or_default();
        if !(8..=STARTUP_BYTES_MAX).contains(&length) {
            return Err(format!("not a startup packet, bytes={length}").into());
        }
        let mut packet = vec![0; length];
        packet[..8].copy_from_slice(&head);
        stream.read_exact(&mut packet[8..])?;
        match code {
            TLS | GSS => stream.write_all(b"N")?,
            CANCEL => return Ok(None),
            _ => return Ok(Some(packet)),
        }
    }
}

/// PostgreSQL's thread: everything of it is made, used and dropped here.
fn run_backend(
    directory: &Path,
    shared: &Shared,
    clients: &mpsc::Receiver<Client>,
    opened: &mpsc::Sender<Result<(), String>>,
) {
    let storage = DatabaseStorage::Directory(directory.to_owned());
    let made = fs::create_dir_all(directory).map_err(Into::into);
    let prepared = made
        .and_then(|()| PreparedDatabase::prepare(storage, default_catalog_profile(), "postgres"))
        .and_then(|database| database.runtime().map(|runtime| (database, runtime)));
    let (mut database, runtime) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = opened.send(Err(format!("{error:#}")));
            return;
        }
    };
    let _ = opened.send(Ok(()));
    for (stream, packet) in clients {
        if !shared.stopping.load(Ordering::SeqCst)
            && let Err(error) = serve(&runtime, stream, &packet)
        {
            tracing::warn!(error = %format!("{error:#}"), "a session of the embedded database failed");
        }
        *shared.client() = None;
        shared.free.notify_all();
    }
    drop(runtime);
    if let Err(error) = database.release() {
        tracing::warn!(error = %format!("{error:#}"), "the embedded database keeps its directory");
    }
}

fn serve(runtime: &PreparedRuntime, stream: UnixStream, packet: &[u8]) -> anyhow::Result<()> {
    let mut session = runtime.open(PostgresConfig::default(), StartupConfig::default())?;
    let served = converse(&mut session, stream, packet);
    session.shutdown()?;
    served
}

/// Passes messages to PostgreSQL until the client leaves. PostgreSQL is asked only at the ends of
/// the client's sentences (Sync, Query, Flush), since in between it would wait for the rest.
fn converse(
    session: &mut ProtocolSession,
    mut stream: UnixStream,
    packet: &[u8],
) -> anyhow::Result<()> {
    let startup = session.startup_with_packet(packet)?;
    stream.write_all(&startup.output)?;
    if !startup.accepted {
        return Ok(());
    }
    session.attach_protocol_stream(Stream(stream.try_clone()?))?;
    let mut reader = BufReader::with_capacity(1 << 16, stream.try_clone()?);
    let mut sentence = Vec::new();
    loop {
        let mut head = [0; 5];
        if reader.read_exact(&mut head).is_err() {
            return Ok(());
        }
        let length = i32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length).unwrap_or_default();
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            anyhow::bail!("not a message, type={} bytes={length}", head[0]);
        }
        if head[0] == b'X' {
            return Ok(());
        }
        sentence.extend_from_slice(&head);
        let at = sentence.len();
        sentence.resize(at + length - 4, 0);
        reader.read_exact(&mut sentence[at..])?;
        if !matches!(head[0], b'S' | b'Q' | b'H') {
            continue;
        }
        let outcome =
            session.send_with_connection_protocol_pump(&sentence, || reader.buffer().to_vec())?;
        sentence.clear();
        match outcome {
            ProtocolPumpOutcome::Buffered(answer) => stream.write_all(&answer)?,
            // COPY made PostgreSQL read from the socket itself, until the client left.
            ProtocolPumpOutcome::Streamed => return Ok(()),
        }
    }
}

/// The client's socket, as PostgreSQL reads from it during COPY.
struct Stream(UnixStream);

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl ProtocolStream for Stream {
    fn read_ready(&mut self) -> io::Result<bool> {
        let mut one = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, of a socket that `self` keeps open; a timeout of 0 never waits.
        match unsafe { libc::poll(&mut one, 1, 0) } {
            ready @ 0.. => Ok(ready > 0),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
