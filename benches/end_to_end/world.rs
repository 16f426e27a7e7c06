//! What one run of the bench makes and removes again: a topic full of taps, and per job a
//! database, a lake and a folder of topic file and model.

use crate::{
    running::Running,
    services::Services,
    workload::{self, Model, Shape, Tap},
};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, path::Path as ObjectPath};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub const BINARY: &str = env!("CARGO_BIN_EXE_highwater");
const RECORD_BYTES_MAX: &str = "16777216";
pub const PATIENCE: Duration = Duration::from_secs(120);
/// A job that runs longer is killed: 10,000 events/s are too few to go on with.
const EVENTS_PER_SECOND_MIN: u64 = 10_000;

/// A topic for the workload; deleted with this.
pub struct Topic<'a> {
    pub services: &'a Services,
    pub runtime: &'a tokio::runtime::Runtime,
    pub name: String,
    pub shape: Shape,
    /// Of all values.
    pub bytes: u64,
}

impl<'a> Topic<'a> {
    pub fn fill(
        services: &'a Services,
        runtime: &'a tokio::runtime::Runtime,
        name: String,
        shape: Shape,
    ) -> Self {
        let mut topic = Self::empty(services, runtime, name, shape);
        topic.bytes = topic.produce(workload::taps(shape));
        topic
    }

    pub fn empty(
        services: &'a Services,
        runtime: &'a tokio::runtime::Runtime,
        name: String,
        shape: Shape,
    ) -> Self {
        let new = NewTopic::new(&name, shape.partitions as i32, TopicReplication::Fixed(1))
            // The taps are of 2024: Kafka would delete them by their age.
            .set("retention.ms", "-1")
            .set("max.message.bytes", RECORD_BYTES_MAX);
        let made = runtime.block_on(admin(services).create_topics([&new], &options()));
        made.expect("create topic")[0].as_ref().expect("create topic");
        Self { services, runtime, name, shape, bytes: 0 }
    }

    /// Bytes of all values.
    pub fn produce(&self, taps: impl Iterator<Item = Tap>) -> u64 {
        let producer = self.producer("50");
        let (mut key, mut value, mut bytes) = (Vec::new(), Vec::new(), 0);
        for tap in taps {
            key.clear();
            value.clear();
            self.shape.form.key(&tap, &mut key);
            self.shape.form.value(&tap, &mut value);
            bytes += value.len() as u64;
            self.send(&producer, &tap, &key, &value);
        }
        producer.flush(PATIENCE).expect("all taps are produced");
        bytes
    }

    /// Sends each tap once, in order.
    pub fn producer(&self, linger_ms: &str) -> BaseProducer {
        ClientConfig::new()
            .set("bootstrap.servers", self.services.kafka())
            .set("compression.type", "lz4")
            .set("linger.ms", linger_ms)
            .set("batch.size", "1000000")
            .set("enable.idempotence", "true")
            .set("queue.buffering.max.messages", "500000")
            .set("message.max.bytes", RECORD_BYTES_MAX)
            .create()
            .expect("producer")
    }

    pub fn send(&self, producer: &BaseProducer, tap: &Tap, key: &[u8], value: &[u8]) {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.name)
            .partition(tap.partition as i32)
            .timestamp(tap.arrival_ms)
            .payload(value);
        if self.shape.form.has_keys() {
            record = record.key(key);
        }
        loop {
            match producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(Duration::from_millis(10));
                    record = back;
                }
                Err((error, _)) => panic!("produce: {error}"),
            }
        }
    }
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        let _ = self
            .runtime
            .block_on(admin(self.services).delete_topics(&[self.name.as_str()], &options()));
    }
}

fn admin(services: &Services) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", services.kafka()).create().expect("admin")
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)))
}

/// What a job declares.
pub struct Declared<'a> {
    pub models: Vec<Model>,
    /// How long a tap's id is remembered, if it is.
    pub within: Option<&'a str>,
    /// The lake's levels in place of the usual ones.
    pub partition_by: Option<&'a str>,
    /// Of the process, by the environment.
    pub settings: Vec<(&'static str, String)>,
}

impl Declared<'_> {
    pub fn usual() -> Self {
        let models = vec![Model::usual()];
        Self { models, within: None, partition_by: None, settings: Vec::new() }
    }
}

/// Writes the topic file and the models' files below `folder`.
pub fn declare(folder: &Path, topic: &Topic<'_>, declared: &Declared<'_>) {
    let write = |path: &str, text: String| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    let unique =
        declared.within.map(|within| format!("unique = [\"tap_id\"]\nwithin = \"{within}\"\n"));
    let unique = unique.unwrap_or_default();
    let mut file = topic.shape.form.topic_file(folder);
    if let Some(levels) = declared.partition_by {
        file = file.replace(workload::PARTITION_BY, levels);
    }
    let topic = format!(
        "topic = \"{}\"
{unique}{file}",
        topic.name
    );
    write("topics/taps.toml", topic);
    std::fs::create_dir_all(folder.join("models")).expect("a folder");
    for model in &declared.models {
        write(&format!("models/{}.sql", model.name), model.sql());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lake {
    Local,
    S3,
}

impl Lake {
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::S3 => "s3",
        }
    }
}

/// What processes cost that ran at the same time.
#[derive(Default)]
pub struct Cost {
    /// Until the last of them ended.
    pub seconds: f64,
    pub user_seconds: f64,
    pub system_seconds: f64,
    /// Of the largest.
    pub resident_bytes_max: u64,
}

impl Cost {
    pub fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }

    pub fn resident_mib_max(&self) -> f64 {
        self.resident_bytes_max as f64 / 1_048_576.0
    }
}

/// A database and a lake of one job; removed with this.
pub struct Job<'a> {
    pub topic: &'a Topic<'a>,
    pub lake: Lake,
    pub declared: Declared<'a>,
    database: String,
    prefix: String,
    folder: tempfile::TempDir,
}

impl<'a> Job<'a> {
    pub fn new(topic: &'a Topic<'a>, lake: Lake, declared: Declared<'a>) -> Self {
        let database = format!("{}_{}", topic.name, lake.name());
        let url = topic.services.postgres("postgres");
        query(topic.runtime, &url, &format!("CREATE DATABASE {database}"));
        let folder = tempfile::tempdir().expect("a folder");
        declare(folder.path(), topic, &declared);
        Self { topic, lake, declared, prefix: database.clone(), database, folder }
    }

    /// Runs the real binary to the end of the topic, in so many processes of one group.
    pub fn run(&self, under: &[String], processes: usize) -> Cost {
        self.highwater(under, &["run", "--until-caught-up"], processes)
    }

    /// `highwater verify --deep`: every row of the lake, and the table rebuilt from it.
    pub fn verify(&self) {
        self.highwater(&[], &["verify", "--deep"], 1);
    }

    /// Insists on success; what they said is shown if one fails.
    fn highwater(&self, under: &[String], arguments: &[&str], processes: usize) -> Cost {
        let log = |process: usize| self.folder.path().join(format!("log{process}"));
        let start = |process: usize| {
            let log = std::fs::File::create(log(process)).expect("a log");
            let mut command = self.command(under, arguments);
            command.stdout(log.try_clone().expect("a log")).stderr(log);
            command.spawn().expect("the binary starts")
        };
        let patience =
            PATIENCE + Duration::from_secs(self.topic.shape.events / EVENTS_PER_SECOND_MIN);
        let started = Instant::now();
        let children = (0..processes).map(start).collect();
        let (codes, cost) = measure(children, started, patience);
        for (process, code) in codes.iter().enumerate() {
            if *code != Some(0) {
                let log = std::fs::read_to_string(log(process)).unwrap_or_default();
                panic!("highwater {arguments:?} ended with {code:?}:\n{log}");
            }
        }
        cost
    }

    /// The service, until it is told to end.
    pub fn start(&self) -> Running {
        Running::start(self.command(&[], &["run"]), self.folder.path().join("log"))
    }

    fn command(&self, under: &[String], arguments: &[&str]) -> Command {
        let lake = match self.lake {
            Lake::Local => format!("file://{}", self.folder.path().join("lake").display()),
            Lake::S3 => format!("s3://{}/{}", self.topic.services.bucket(), self.prefix),
        };
        let mut words: Vec<&str> = under.iter().map(String::as_str).collect();
        words.push(BINARY);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(arguments)
            .env("HIGHWATER_TOPICS", self.folder.path().join("topics"))
            .env("HIGHWATER_MODELS", self.folder.path().join("models"))
            .env("HIGHWATER_BROKERS", self.topic.services.kafka())
            .env("HIGHWATER_GROUP", &self.database)
            .env("HIGHWATER_WAREHOUSE", self.topic.services.postgres(&self.database))
            .env("HIGHWATER_LAKE", lake)
            .env("HIGHWATER_LISTEN", "127.0.0.1:0")
            .envs(self.topic.services.s3())
            .envs(self.declared.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    pub fn connect(&self) -> tokio_postgres::Client {
        let url = self.topic.services.postgres(&self.database);
        self.topic.runtime.block_on(connect(&url))
    }

    /// Rows as text, NULL as None.
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        query(self.topic.runtime, &self.topic.services.postgres(&self.database), sql)
    }

    /// What COPY writes of a query's rows.
    pub fn csv(&self, sql: &str) -> String {
        let url = self.topic.services.postgres(&self.database);
        self.topic.runtime.block_on(async {
            let client = connect(&url).await;
            let copy = format!("COPY ({sql}) TO STDOUT (FORMAT csv)");
            let stream = client.copy_out(&copy).await.expect(sql);
            let text = stream.try_fold(Vec::new(), |mut text, part| async move {
                text.extend_from_slice(&part);
                Ok(text)
            });
            String::from_utf8(text.await.expect(sql)).expect("UTF-8")
        })
    }

    async fn empty_bucket(&self) -> object_store::Result<()> {
        let mut builder = AmazonS3Builder::new().with_bucket_name(self.topic.services.bucket());
        for (name, value) in self.topic.services.s3() {
            let key = name.to_ascii_lowercase().parse().expect("an option of S3");
            builder = builder.with_config(key, value);
        }
        let store = builder.build()?;
        let prefix = ObjectPath::from(self.prefix.as_str());
        let files = store.list(Some(&prefix)).map_ok(|file| file.location);
        files.try_for_each_concurrent(8, |path| async { store.delete(&{ path }).await }).await
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let url = self.topic.services.postgres("postgres");
        query(self.topic.runtime, &url, &format!("DROP DATABASE {} WITH (FORCE)", self.database));
        if self.lake == Lake::S3
            && let Err(error) = self.topic.runtime.block_on(self.empty_bucket())
        {
            println!("objects below {} are left: {error}", self.prefix);
        }
    }
}

fn query(runtime: &tokio::runtime::Runtime, url: &str, sql: &str) -> Vec<Vec<Option<String>>> {
    runtime.block_on(async {
        let client = connect(url).await;
        let messages = client.simple_query(sql).await.expect(sql);
        let row = |message: &tokio_postgres::SimpleQueryMessage| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
            }
            _ => None,
        };
        messages.iter().filter_map(row).collect()
    })
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
    let (client, connection) = connected.expect("PostgreSQL");
    tokio::spawn(connection);
    client
}

/// Exit codes (None: by a signal, or killed after `patience`) and what the kernel counted.
fn measure(children: Vec<Child>, started: Instant, patience: Duration) -> (Vec<Option<i32>>, Cost) {
    let mut cost = Cost::default();
    let mut codes: Vec<Option<i32>> = vec![None; children.len()];
    let mut running: Vec<usize> = (0..children.len()).collect();
    while !running.is_empty() {
        std::thread::sleep(Duration::from_millis(5));
        running.retain(|&child| {
            let pid = children[child].id() as libc::pid_t;
            cost.resident_bytes_max = cost.resident_bytes_max.max(resident_bytes_max(pid));
            if started.elapsed() > patience {
                // SAFETY: a signal to our own child, which is not waited for yet.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            let mut status = 0;
            let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
            // SAFETY: wait4 fills what it is given; the pid is our child's until it returns it.
            let ended =
                unsafe { libc::wait4(pid, &mut status, libc::WNOHANG, usage.as_mut_ptr()) == pid };
            if ended {
                // SAFETY: zeroed is a valid rusage, and wait4 has filled it.
                let usage = unsafe { usage.assume_init() };
                let of = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
                cost.user_seconds += of(usage.ru_utime);
                cost.system_seconds += of(usage.ru_stime);
                codes[child] = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            }
            !ended
        });
    }
    cost.seconds = started.elapsed().as_secs_f64();
    (codes, cost)
}

/// Of a process and its children up to now. Not `ru_maxrss`: that begins at the size of this very
/// process, which lent the child its memory until it executed.
pub fn resident_bytes_max(pid: libc::pid_t) -> u64 {
    let read = |file: String| std::fs::read_to_string(file).unwrap_or_default();
    let status = read(format!("/proc/{pid}/status"));
    let mut lines = status.lines();
    let peak = lines.find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    let own: u64 = peak.map_or(0, |kib| kib.trim().parse().expect("a number"));
    let children = read(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.split_whitespace().map(|pid| pid.parse().expect("a number"));
    own * 1024 + children.map(resident_bytes_max).sum::<u64>()
}

pub fn proof() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/queries/proof.sql");
    std::fs::read_to_string(path).expect("proof.sql")
}
