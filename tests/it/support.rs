//! The real parts a test runs against, and the binary under test.

pub mod certificates;
pub mod servers;

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Long enough for a busy machine with two cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the services are; `tests/run` starts them and says so.
#[derive(Clone)]
pub struct Services {
    pub kafka: String,
    /// Brokers that hold each partition.
    pub replicas: i32,
    pub postgres: String,
    pub s3: String,
    pub bucket: String,
}

/// None, with a printed line, where a service is missing and nobody insists on it.
pub fn services() -> Option<Services> {
    Some(Services {
        kafka: variable("HIGHWATER_TEST_KAFKA")?,
        replicas: 1,
        postgres: variable("HIGHWATER_TEST_POSTGRES")?,
        s3: variable("HIGHWATER_TEST_S3_ENDPOINT")?,
        bucket: variable("HIGHWATER_TEST_S3_BUCKET")?,
    })
}

pub fn variable(name: &str) -> Option<String> {
    match std::env::var(name) {
        Ok(value) => Some(value),
        Err(_) => {
            let insists = std::env::var("HIGHWATER_TEST_REQUIRE").is_ok();
            assert!(!insists, "{name} is not set; tests/run starts the services");
            println!("skipped: {name} is not set");
            None
        }
    }
}

/// The folder of real input; None with a printed line where it is absent.
pub fn data() -> Option<PathBuf> {
    let found = std::env::var_os("HIGHWATER_TEST_DATA").map(PathBuf::from).filter(|p| p.is_dir());
    if found.is_none() {
        println!("skipped: HIGHWATER_TEST_DATA is not a folder");
    }
    found
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A name that no other test of this run has.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("tokio")
}

/// One test's world: a topic, a database, a lake, a folder with the topic and model files.
pub struct World {
    pub services: Services,
    pub runtime: tokio::runtime::Runtime,
    pub kafka_topic: String,
    pub database: String,
    pub lake: String,
    pub folder: tempfile::TempDir,
    pub group: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lake {
    Local,
    S3,
}

impl World {
    /// Copies `topics/NAME.toml` and the models `models`, pointing them at a topic of this world.
    pub fn new(
        name: &str,
        partitions: i32,
        lake: Lake,
        topic: &str,
        models: &[&str],
    ) -> Option<Self> {
        let world = Self::empty(name, partitions, lake)?;
        let text =
            std::fs::read_to_string(root().join(format!("topics/{topic}.toml"))).expect("topic");
        let rest = text.lines().filter(|l| !l.starts_with("topic ") && !l.starts_with("topic="));
        let rest = rest.collect::<Vec<_>>().join("\n");
        world.declare(topic, &format!("topic = \"{}\"\n{rest}", world.kafka_topic));
        for model in models {
            let from = root().join(format!("sql/models/{model}.sql"));
            world.declare_model(model, &std::fs::read_to_string(from).expect("model"));
        }
        Some(world)
    }

    /// A Kafka topic, a database, a lake, and nothing declared yet.
    pub fn empty(name: &str, partitions: i32, lake: Lake) -> Option<Self> {
        Some(Self::on(services()?, name, partitions, lake))
    }

    /// The same on services that are not the shared ones.
    pub fn on(services: Services, name: &str, partitions: i32, lake: Lake) -> Self {
        let runtime = runtime();
        let kafka_topic = unique(name);
        let made = create_replicated(&services.kafka, &kafka_topic, partitions, services.replicas);
        runtime.block_on(made);
        let database = unique("highwater_test");
        runtime.block_on(async {
            let client = connect(&services.postgres).await;
            client
                .batch_execute(&format!("CREATE DATABASE {database}"))
                .await
                .expect("create database");
        });
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("topics")).expect("topics");
        std::fs::create_dir_all(folder.path().join("models")).expect("models");
        let lake = match lake {
            Lake::Local => format!("file://{}", folder.path().join("lake").display()),
            Lake::S3 => format!("s3://{}/{kafka_topic}", services.bucket),
        };
        let group = kafka_topic.clone();
        Self { services, runtime, kafka_topic, database, lake, folder, group }
    }

    /// Writes `NAME.toml`; `{topic}` in it stands for this world's topic.
    pub fn declare(&self, name: &str, text: &str) {
        let file = self.folder.path().join(format!("topics/{name}.toml"));
        std::fs::write(file, text.replace("{topic}", &self.kafka_topic)).expect("topic file");
    }

    pub fn declare_model(&self, name: &str, sql: &str) {
        let file = self.folder.path().join(format!("models/{name}.sql"));
        std::fs::write(file, sql).expect("model");
    }

    pub fn warehouse(&self) -> String {
        let (base, _) = self.services.postgres.rsplit_once('/').expect("postgres://…/database");
        format!("{base}/{}", self.database)
    }

    /// The binary with this world's settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command
            .args(arguments)
            .env("HIGHWATER_TOPICS", self.folder.path().join("topics"))
            .env("HIGHWATER_MODELS", self.folder.path().join("models"))
            .env("HIGHWATER_BROKERS", &self.services.kafka)
            .env("HIGHWATER_GROUP", &self.group)
            .env("HIGHWATER_WAREHOUSE", self.warehouse())
            .env("HIGHWATER_LAKE", &self.lake)
            .env("HIGHWATER_LISTEN", "127.0.0.1:0")
            .env("HIGHWATER_PII_SECRET", "a secret of the tests")
            // A killed process must not hold its partitions for half a minute.
            .env("HIGHWATER_KAFKA", "session.timeout.ms=6000,heartbeat.interval.ms=1000")
            .env("AWS_ENDPOINT", &self.services.s3)
            .env("AWS_ALLOW_HTTP", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs to the end and insists on success.
    pub fn run(&self, arguments: &[&str]) -> String {
        let process = Running::start(self.command(arguments));
        let (code, text) = process.wait();
        assert_eq!(code, Some(0), "highwater {arguments:?}:\n{text}");
        text
    }

    pub fn run_until_caught_up(&self) -> String {
        self.run(&["run", "--until-caught-up"])
    }

    /// Runs to its end: exit code, standard output and standard error each for itself.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary starts")
    }

    /// The service, following.
    pub fn follow(&self, settings: &[(&str, &str)]) -> Running {
        let mut command = self.command(&["run"]);
        command.envs(settings.iter().copied());
        Running::start(command)
    }

    /// Whether every output has passed so many offsets; `outputs` counts the lake and the dead
    /// letters, too.
    pub fn has_passed(&self, outputs: i64, offsets: i64) -> bool {
        self.number("SELECT count(*) FROM pg_tables WHERE tablename = 'marks'") == 1
            && self.number(&format!(
                "SELECT count(*) FROM (SELECT output FROM highwater.marks GROUP BY topic, output
                 HAVING sum(next_offset) = {offsets}) AS done"
            )) == outputs
    }

    /// Rows as text, NULL as None.
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.runtime.block_on(async {
            let client = connect(&self.warehouse()).await;
            let messages = client.simple_query(sql).await.expect(sql);
            messages
                .iter()
                .filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                    }
                    _ => None,
                })
                .collect()
        })
    }

    pub fn number(&self, sql: &str) -> i64 {
        let rows = self.query(sql);
        rows[0][0].as_deref().unwrap_or("0").parse().unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    pub fn produce<V: AsRef<[u8]>>(&self, records: impl IntoIterator<Item = (String, V)>) {
        produce(&self.services.kafka, &self.kafka_topic, records);
    }

    /// More partitions for this world's topic: so many in all.
    pub fn add_partitions(&self, count: usize) {
        let (admin, options) = admin(&self.services.kafka);
        let more = NewPartitions::new(&self.kafka_topic, count);
        let made = self.runtime.block_on(admin.create_partitions([&more], &options));
        made.expect("add partitions")[0].as_ref().expect("add partitions");
    }

    /// Each row that changes so takes its time (in seconds), as on a busy disk: what a trigger says between its name and FOR
    /// EACH ROW, and of which rows.
    pub fn slow_down(&self, seconds: f64, changes: &[(&str, &str)]) {
        let triggers = changes.iter().map(|(change, rows)| {
            format!(
                "CREATE TRIGGER takes_its_time BEFORE {change} FOR EACH ROW {rows} EXECUTE FUNCTION takes_its_time();"
            )
        });
        self.query(&format!(
            "CREATE FUNCTION takes_its_time() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END';
             {}",
            triggers.collect::<String>()
        ));
    }

    /// `sql/queries/proof.sql`: every output's offsets add up.
    pub fn assert_proof(&self) {
        let sql = std::fs::read_to_string(root().join("sql/queries/proof.sql")).expect("proof.sql");
        let rows = self.query(&sql);
        assert!(!rows.is_empty(), "no marks at all");
        for row in rows {
            assert_eq!(row.last().cloned().flatten().as_deref(), Some("adds up"), "{row:?}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let name = self.database.clone();
        let url = self.services.postgres.clone();
        self.runtime.block_on(async {
            // A test that failed may have left it stopped.
            let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
            let Ok((client, connection)) = connected else { return };
            tokio::spawn(connection);
            let _ = client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
        });
    }
}

pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("PostgreSQL");
    tokio::spawn(connection);
    client
}

pub async fn create_topic(brokers: &str, topic: &str, partitions: i32) {
    create_replicated(brokers, topic, partitions, 1).await;
}

async fn create_replicated(brokers: &str, topic: &str, partitions: i32, replicas: i32) {
    let (admin, options) = admin(brokers);
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
    let made = admin.create_topics([&new], &options).await.expect("create topic");
    made[0].as_ref().expect("create topic");
}

fn admin(brokers: &str) -> (AdminClient<DefaultClientContext>, AdminOptions) {
    let client = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("admin");
    (client, AdminOptions::new().operation_timeout(Some(Duration::from_secs(30))))
}

pub fn produce<V: AsRef<[u8]>>(
    brokers: &str,
    topic: &str,
    records: impl IntoIterator<Item = (String, V)>,
) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "20")
        .set("compression.type", "lz4")
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", "2000000")
        .create()
        .expect("producer");
    for (key, value) in records {
        let record = BaseRecord::to(topic).key(&key).payload(value.as_ref());
        producer.send(record).map_err(|(e, _)| e).expect("produce");
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).expect("flush");
}

/// A child that ends with its handle.
pub struct Running {
    child: Child,
    printed: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let printed = Arc::new(Mutex::new(String::new()));
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
            child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        ];
        let read = |stream: Box<dyn Read + Send>| {
            let printed = printed.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    *printed.lock().expect("text") += &(line + "\n");
                }
            })
        };
        let readers = streams.into_iter().flatten().map(read).collect();
        Self { child, printed, readers }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a signal to our own child, which is not waited for yet.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Exit code (None: by a signal) and everything printed.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            if Instant::now() > deadline {
                self.signal(libc::SIGKILL);
                let _ = self.child.wait();
                panic!("not done within {PATIENCE:?}:\n{}", self.printed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let code = self.child.wait().expect("wait").code();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        (code, self.printed())
    }

    /// Everything printed so far.
    pub fn printed(&self) -> String {
        self.printed.lock().expect("text").clone()
    }

    /// SIGTERM, and insists on an orderly end.
    pub fn stop(self) -> String {
        self.signal(libc::SIGTERM);
        let (code, text) = self.wait();
        assert_eq!(code, Some(0), "{text}");
        text
    }

    /// Of the running service: status and body.
    pub fn get(&mut self, path: &str) -> (u16, String) {
        self.request("GET", path)
    }

    pub fn request(&mut self, method: &str, path: &str) -> (u16, String) {
        let address = self.address();
        let mut stream = TcpStream::connect(address).expect("the service listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("time limit");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("status");
        (code, body.to_owned())
    }

    /// `/status`.
    pub fn status(&mut self) -> serde_json::Value {
        let (code, body) = self.get("/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    pub fn address(&mut self) -> String {
        let said = "serving http://";
        let mut address = None;
        eventually("an address", || {
            let alive = self.is_running();
            let printed = self.printed();
            let line = printed.lines().find_map(|l| l.split_once(said));
            address = line.map(|(_, address)| address.trim().to_owned());
            assert!(address.is_some() || alive, "it ended:\n{printed}");
            address.is_some()
        });
        address.expect("said above")
    }

    /// Resident memory now, in MiB.
    pub fn resident_mib(&self) -> u64 {
        let file = format!("/proc/{}/statm", self.child.id());
        let text = std::fs::read_to_string(file).expect("statm");
        let pages = text.split(' ').nth(1).and_then(|p| p.parse::<u64>().ok());
        pages.expect("resident pages") * 4096 / (1 << 20)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let printed = self.printed();
            let lines: Vec<_> = printed.lines().collect();
            println!("its last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        if self.is_running() {
            self.signal(libc::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Waits for something that happens in its own time.
pub fn eventually(what: &str, done: impl FnMut() -> bool) {
    eventually_within(PATIENCE, what, done);
}

pub fn eventually_within(patience: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A line per record of a compressed file.
pub fn lines(path: &Path) -> Vec<String> {
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let text = zstd::decode_all(file).expect("zstd");
    String::from_utf8(text).expect("UTF-8").lines().map(str::to_owned).collect()
}
