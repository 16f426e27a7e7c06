//! Servers of one test's own, which it may stop, kill and start again: from what `tests/run`
//! installed and names by variables, on free loopback ports, in a folder that goes with them.
//!
//! Each ends by its own id with its handle, also when the test fails; should the tests be killed
//! outright, the kernel ends it.

use super::{Services, certificates::Certificates, eventually, runtime, services, variable};
use crate::proxy::Proxy;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

/// A process that ends and starts again at the same place.
pub struct Server {
    name: &'static str,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    folder: PathBuf,
    /// What ends it in good order with its children, if it has any.
    last_signal: libc::c_int,
    child: Option<Child>,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub fn start(&mut self, is_ready: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        let before = self.log().len();
        self.spawn();
        eventually(self.name, || {
            if self.child.as_mut().is_some_and(|c| c.try_wait().expect("wait").is_some()) {
                let said = self.log().split_off(before);
                // What was killed may hold its memory or port for a moment.
                let again = ["already in use", "still in use", "lock file"];
                assert!(again.iter().any(|words| said.contains(words)), "{}: {said}", self.name);
                self.spawn();
            }
            is_ready(self)
        });
        println!("{} is ready after {:?}", self.name, started.elapsed());
    }

    fn spawn(&mut self) {
        let log = self.folder.join("log");
        let log = OpenOptions::new().create(true).append(true).open(log).expect("log");
        let mut command = Command::new(&self.arguments[0]);
        command
            .args(&self.arguments[1..])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log);
        self.child = Some(command.spawn().expect(self.name));
    }

    pub fn signal(&self, signal: libc::c_int) {
        if let Some(child) = &self.child {
            // SAFETY: a signal to our own child, which is not waited for yet.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    /// Ends it by a signal and waits for its end.
    pub fn end(&mut self, signal: libc::c_int) {
        self.signal(signal);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("wait");
        }
    }

    pub fn log(&self) -> String {
        std::fs::read(self.folder.join("log"))
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(libc::SIGCONT);
        self.end(self.last_signal);
    }
}

/// Below the folder of this run of the tests, for everybody to enter: PostgreSQL is another user.
pub fn folder(name: &str) -> tempfile::TempDir {
    let run = std::env::var_os("HIGHWATER_TEST_RUN").map(PathBuf::from);
    let run = run.filter(|run| run.is_dir()).unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix(name).tempdir_in(run).expect("a folder");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), all).expect("permissions");
    folder
}

/// Below the range that the system gives to whoever connects: it stays free while its server is
/// away. No port is given twice, whether somebody listens there yet or not.
fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random()));
    loop {
        let port = 10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// What HTTP in the plain is answered with.
fn status(port: u16, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("time limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).ok()?;
    std::str::from_utf8(&answer[9..]).ok()?.parse().ok()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Small, and quick to start.
const JAVA: &str =
    "setpriv --pdeathsig KILL -- java -Xms64m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1";

/// A program of Kafka's with its arguments.
fn of_kafka(home: &Path, program: &str) -> Vec<String> {
    let mut arguments = words(JAVA);
    arguments.push(format!("-Dlog4j2.configurationFile={}", home.join("log4j2.xml").display()));
    arguments.extend(["-cp".to_owned(), format!("{}/*", home.join("libs").display())]);
    arguments.extend(words(program));
    arguments
}

pub struct Postgres {
    pub server: Server,
    port: u16,
    programs: PathBuf,
    _folder: tempfile::TempDir,
}

impl Postgres {
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// One that lets `user` in with TLS and a password alone.
    pub fn secured(certificates: &Certificates, user: &str) -> Option<Self> {
        Self::start_with(Some((certificates, user)))
    }

    fn start_with(secured: Option<(&Certificates, &str)>) -> Option<Self> {
        let programs = PathBuf::from(variable("HIGHWATER_TEST_POSTGRES_BIN")?);
        let (folder, port) = (folder("postgres"), free_port());
        // SAFETY: asks who we are.
        let is_root = unsafe { libc::geteuid() } == 0;
        // It refuses to run as root.
        let as_user = match is_root {
            true => "--reuid postgres --regid postgres --init-groups --pdeathsig QUIT --",
            false => "--pdeathsig QUIT --",
        };
        if is_root {
            run(Command::new("chown").arg("postgres").arg(folder.path()));
        }
        let make = "-D data -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N";
        run(Command::new("setpriv")
            .args(words(as_user))
            .arg(programs.join("initdb"))
            .args(words(make))
            .current_dir(folder.path()));
        // What is answered outlives the process; it need not outlive the machine.
        let mut settings = format!(
            "-D data -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} \
             -c max_connections=100 -c fsync=off -c wal_level=logical",
            folder.path().display()
        );
        if let Some((certificates, user)) = secured {
            let data = folder.path().join("data");
            // It wants a key of its own, which nobody else reads.
            let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
            certificates.install(&key, &certificate);
            let own = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&key, own).expect("permissions");
            let who = format!(
                "hostnossl all {user} 127.0.0.1/32 reject\n\
                 hostssl   all {user} 127.0.0.1/32 scram-sha-256\n\
                 host      all all    127.0.0.1/32 trust\n"
            );
            std::fs::write(data.join("pg_hba.conf"), who).expect("pg_hba.conf");
            if is_root {
                run(Command::new("chown").arg("postgres").args([&key, &certificate]));
            }
            settings.push_str(" -c ssl=on");
        }
        let mut arguments = words(&format!("setpriv {as_user}"));
        arguments.push(programs.join("postgres").display().to_string());
        arguments.extend(words(&settings));
        let server = Server {
            name: "PostgreSQL",
            arguments,
            variables: Vec::new(),
            folder: folder.path().to_owned(),
            last_signal: libc::SIGQUIT,
            child: None,
        };
        let mut postgres = Self { server, port, programs, _folder: folder };
        postgres.start_again();
        Some(postgres)
    }

    pub fn start_again(&mut self) {
        let (programs, port) = (&self.programs, self.port.to_string());
        self.server.start(|_| {
            let asked = Command::new(programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-U", "postgres", "-p", &port])
                .status();
            asked.expect("pg_isready").success()
        });
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

pub fn run(command: &mut Command) {
    let output = command.output().expect("a program");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

pub struct Minio {
    pub server: Server,
    scheme: &'static str,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Minio {
    /// With the bucket and the keys of the shared one.
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// One that speaks TLS alone.
    pub fn secured(certificates: &Certificates) -> Option<Self> {
        Self::start_with(Some(certificates))
    }

    fn start_with(certificates: Option<&Certificates>) -> Option<Self> {
        let program = variable("HIGHWATER_TEST_MINIO")?;
        let (folder, port) = (folder("minio"), free_port());
        let bucket = variable("HIGHWATER_TEST_S3_BUCKET")?;
        // A directory is a bucket.
        std::fs::create_dir_all(folder.path().join("data").join(bucket)).expect("bucket");
        let mut arguments = words("setpriv --pdeathsig KILL --");
        arguments.push(program);
        arguments.extend(words(&format!("server --quiet --address 127.0.0.1:{port}")));
        if let Some(certificates) = certificates {
            let own = folder.path().join("certs");
            std::fs::create_dir(&own).expect("certs");
            certificates.install(&own.join("private.key"), &own.join("public.crt"));
            arguments.extend(words("--certs-dir certs"));
        }
        arguments.push("data".to_owned());
        let variables = vec![
            ("HOME", folder.path().display().to_string()),
            ("MINIO_ROOT_USER", variable("AWS_ACCESS_KEY_ID")?),
            ("MINIO_ROOT_PASSWORD", variable("AWS_SECRET_ACCESS_KEY")?),
            ("MINIO_BROWSER", "off".to_owned()),
            ("MINIO_UPDATE", "off".to_owned()),
        ];
        let server = Server {
            name: "MinIO",
            arguments,
            variables,
            folder: folder.path().to_owned(),
            last_signal: libc::SIGKILL,
            child: None,
        };
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let mut minio = Self { server, scheme, port, _folder: folder };
        minio.start_again();
        Some(minio)
    }

    pub fn start_again(&mut self) {
        let port = self.port;
        // Who speaks TLS alone refuses a plain question.
        let ready = if self.scheme == "https" { 400 } else { 200 };
        self.server.start(|_| status(port, "/minio/health/ready") == Some(ready));
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }
}

/// A schema registry that is reached by http and by https.
pub struct Registry {
    _server: Server,
    port: u16,
    tls_port: u16,
    _folder: tempfile::TempDir,
}

impl Registry {
    pub fn secured(certificates: &Certificates) -> Option<Self> {
        let jar = variable("HIGHWATER_TEST_REGISTRY_JAR")?;
        let (folder, port, tls_port) = (folder("registry"), free_port(), free_port());
        let mut arguments = words(JAVA);
        let settings = [
            ("http.host", "127.0.0.1".to_owned()),
            ("http.port", port.to_string()),
            ("http.ssl-port", tls_port.to_string()),
            ("http.ssl.certificate.files", certificates.path("server.pem")),
            ("http.ssl.certificate.key-files", certificates.path("server.key")),
            ("http.insecure-requests", "enabled".to_owned()),
            ("management.host", "127.0.0.1".to_owned()),
            ("management.port", free_port().to_string()),
            ("datasource.jdbc.url", "jdbc:h2:mem:registry_db".to_owned()),
        ];
        arguments.extend(settings.map(|(name, value)| format!("-Dquarkus.{name}={value}")));
        arguments.extend(["-jar".to_owned(), jar]);
        let mut server = Server {
            name: "the registry",
            arguments,
            variables: Vec::new(),
            folder: folder.path().to_owned(),
            last_signal: libc::SIGKILL,
            child: None,
        };
        server.start(|_| status(port, "/apis/ccompat/v7/subjects") == Some(200));
        Some(Self { _server: server, port, tls_port, _folder: folder })
    }

    pub fn plain(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    pub fn encrypted(&self) -> String {
        format!("https://127.0.0.1:{}/apis/ccompat/v7", self.tls_port)
    }
}

/// A Kafka Connect worker with one of Debezium's connectors, which remembers in a file how far it is.
pub struct Connect {
    pub server: Server,
    _folder: tempfile::TempDir,
}

impl Connect {
    /// With the connector's settings. It runs when its source says so.
    pub fn start(kafka: &str, settings: &[(&str, String)]) -> Option<Self> {
        let plugin = PathBuf::from(variable("HIGHWATER_TEST_DEBEZIUM")?);
        let home = PathBuf::from(variable("HIGHWATER_TEST_KAFKA_HOME")?);
        let folder = folder("connect");
        let worker = format!(
            "bootstrap.servers={kafka}\nlisteners=http://127.0.0.1:{}\n\
             key.converter=org.apache.kafka.connect.json.JsonConverter\n\
             value.converter=org.apache.kafka.connect.json.JsonConverter\n\
             key.converter.schemas.enable=false\nvalue.converter.schemas.enable=false\n\
             offset.storage.file.filename=offsets\noffset.flush.interval.ms=2000\n\
             plugin.path={}\nplugin.discovery=service_load\n",
            free_port(),
            plugin.display()
        );
        std::fs::write(folder.path().join("worker.properties"), worker).expect("settings");
        let connector = settings.iter().map(|(name, value)| format!("{name}={value}\n"));
        let connector: String = connector.collect();
        std::fs::write(folder.path().join("connector.properties"), connector).expect("settings");
        let program =
            "org.apache.kafka.connect.cli.ConnectStandalone worker.properties connector.properties";
        let arguments = of_kafka(&home, program);
        let server = Server {
            name: "Kafka Connect",
            arguments,
            variables: Vec::new(),
            folder: folder.path().to_owned(),
            last_signal: libc::SIGKILL,
            child: None,
        };
        let mut connect = Self { server, _folder: folder };
        connect.start_again();
        Some(connect)
    }

    /// It goes on from where it had noted last: what it sent since, it sends again.
    pub fn start_again(&mut self) {
        let before = self.server.log().len();
        self.server.start(|server| server.log().split_off(before).contains("Starting streaming"));
    }
}

/// Kafka brokers, each a controller too, and a proxy to each: who is given the proxies' addresses
/// at first is sent to proxies by the brokers themselves.
pub struct Kafka {
    pub brokers: Vec<Broker>,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

pub struct Broker {
    pub server: Server,
    pub proxy: Proxy,
    port: u16,
}

/// A death is noticed after seconds, and small files are enough.
const KAFKA_SETTINGS: &str = "
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controller.quorum.fetch.timeout.ms=1500
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
group.min.session.timeout.ms=1000
";

impl Kafka {
    pub fn start(count: usize) -> Option<Self> {
        Self::start_with(count, "")
    }

    /// One broker, which lets in by its proxy alone who has a client's certificate and the password of `user`, by SCRAM or
    /// in the plain.
    pub fn secured(certificates: &Certificates, user: &str, password: &str) -> Option<Self> {
        let (own, ca) = (certificates.path("server.all"), certificates.path("ca.pem"));
        let security = "org.apache.kafka.common.security";
        let settings = format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:SASL_SSL,CONTROLLER:PLAINTEXT
listener.name.proxied.ssl.keystore.type=PEM
listener.name.proxied.ssl.keystore.location={own}
listener.name.proxied.ssl.truststore.type=PEM
listener.name.proxied.ssl.truststore.location={ca}
listener.name.proxied.ssl.client.auth=required
listener.name.proxied.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.proxied.plain.sasl.jaas.config={security}.plain.PlainLoginModule required user_{user}=\"{password}\";
listener.name.proxied.scram-sha-512.sasl.jaas.config={security}.scram.ScramLoginModule required;
"
        );
        let kafka = Self::start_with(1, &settings)?;
        let home = PathBuf::from(variable("HIGHWATER_TEST_KAFKA_HOME")?);
        let program = "kafka.admin.ConfigCommand --alter --entity-type users --entity-name";
        let arguments = of_kafka(&home, program);
        run(Command::new(&arguments[0])
            .args(&arguments[1..])
            .args([user, "--bootstrap-server", &kafka.direct(), "--add-config"])
            .arg(format!("SCRAM-SHA-512=[password={password}]")));
        Some(kafka)
    }

    fn start_with(count: usize, more: &str) -> Option<Self> {
        let home = PathBuf::from(variable("HIGHWATER_TEST_KAFKA_HOME")?);
        let (folder, runtime) = (folder("kafka"), runtime());
        let controllers: Vec<_> = (0..count).map(|_| free_port()).collect();
        let voters = controllers.iter().enumerate();
        let voters: Vec<_> =
            voters.map(|(n, port)| format!("{}@127.0.0.1:{port}", n + 1)).collect();
        let mut brokers = Vec::new();
        for (n, controller) in controllers.iter().enumerate() {
            let (port, inner) = (free_port(), free_port());
            let proxy = Proxy::start(&runtime, &format!("127.0.0.1:{inner}"));
            let own = folder.path().join(format!("{}", n + 1));
            let settings = format!(
                "{}\nnode.id={id}\ncontroller.quorum.voters={voters}\nlog.dirs={data}
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://{proxy}
default.replication.factor={count}\noffsets.topic.replication.factor={count}
transaction.state.log.replication.factor={count}\nmin.insync.replicas={alive}\n{KAFKA_SETTINGS}{more}",
                std::fs::read_to_string(home.join("format.properties")).expect("settings"),
                id = n + 1,
                voters = voters.join(","),
                data = own.join("data").display(),
                proxy = proxy.address,
                alive = count.div_ceil(2),
            );
            formatted(&home, &own, n + 1);
            std::fs::write(own.join("server.properties"), settings).expect("settings");
            brokers.push(Broker { server: broker(&home, own), proxy, port });
        }
        let mut kafka = Self { brokers, _runtime: runtime, _folder: folder };
        for broker in &mut kafka.brokers {
            broker.server.spawn();
        }
        let started = Instant::now();
        for broker in &mut kafka.brokers {
            broker.await_ready(0);
        }
        println!("{count} brokers are ready after {:?}", started.elapsed());
        Some(kafka)
    }

    /// Addresses of the brokers themselves.
    pub fn direct(&self) -> String {
        let all: Vec<_> = self.brokers.iter().map(|b| format!("127.0.0.1:{}", b.port)).collect();
        all.join(",")
    }

    /// Addresses of the proxies.
    pub fn proxied(&self) -> String {
        let all: Vec<_> = self.brokers.iter().map(|b| b.proxy.address.to_string()).collect();
        all.join(",")
    }

    /// The other services as they are, and this in place of the shared Kafka.
    pub fn services(&self) -> Option<Services> {
        let replicas = self.brokers.len() as i32;
        Some(Services { kafka: self.direct(), replicas, ..services()? })
    }

    /// Whether every partition of every topic is on every broker.
    pub fn is_whole(&self) -> bool {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.direct())
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        let client: BaseConsumer = config.create().expect("client");
        let Ok(metadata) = client.fetch_metadata(None, Duration::from_secs(5)) else {
            return false;
        };
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
        let count = self.brokers.len();
        metadata.brokers().len() == count && partitions.into_iter().all(|p| p.isr().len() == count)
    }
}

impl Broker {
    pub fn start_again(&mut self) {
        let before = self.server.log().len();
        self.server.spawn();
        self.await_ready(before);
    }

    fn await_ready(&mut self, before: usize) {
        eventually("a broker", || {
            let child = self.server.child.as_mut().expect("started");
            let ended = child.try_wait().expect("wait");
            let log = self.server.log().split_off(before);
            assert!(ended.is_none(), "a broker died: {log}");
            log.contains("Kafka Server started") && answers(self.port)
        });
    }
}

/// The directory that the installation formatted, under another number.
fn formatted(home: &Path, own: &Path, id: usize) {
    let data = own.join("data");
    std::fs::create_dir_all(&data).expect("data");
    let from = home.join("data");
    std::fs::copy(from.join("bootstrap.checkpoint"), data.join("bootstrap.checkpoint"))
        .expect("bootstrap.checkpoint");
    let mut text = String::new();
    File::open(from.join("meta.properties"))
        .and_then(|mut file| file.read_to_string(&mut text))
        .expect("meta.properties");
    let lines = text.lines().map(|line| match line.split_once('=') {
        Some(("node.id", _)) => format!("node.id={id}"),
        // 16 bytes in base64, of which the first characters are all that differs.
        Some(("directory.id", of_one)) => format!("directory.id=N{id}{}", &of_one[2..]),
        Some(_) | None => line.to_owned(),
    });
    let lines: Vec<_> = lines.collect();
    std::fs::write(data.join("meta.properties"), lines.join("\n")).expect("meta.properties");
}

fn broker(home: &Path, own: PathBuf) -> Server {
    Server {
        name: "Kafka",
        arguments: of_kafka(home, "kafka.Kafka server.properties"),
        variables: Vec::new(),
        folder: own,
        last_signal: libc::SIGKILL,
        child: None,
    }
}
