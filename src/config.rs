//! ⇄ Every setting, read once: flags, then `HIGHWATER_*` variables, then the file of `--config`.
//!
//! Owns: names, defaults, units and limits of settings; the only reader of the environment and of
//! files of settings and secrets. What was typed ([`Options`]) and what is meant ([`Config`]) are
//! two types.

use crate::{
    error::{Error, Result},
    record::quantity,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// As typed; nothing is checked yet.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// File of settings (TOML); flags and variables win over it.
    #[arg(long, env = "HIGHWATER_CONFIG", global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of topic files [default: topics].
    #[arg(long, env = "HIGHWATER_TOPICS", global = true, value_name = "DIR")]
    topics: Option<PathBuf>,
    /// Folder of models [default: sql/models].
    #[arg(long, env = "HIGHWATER_MODELS", global = true, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Take only these topics, by name; may be repeated [default: all].
    #[arg(
        long = "topic",
        env = "HIGHWATER_TOPIC",
        global = true,
        value_name = "NAME",
        value_delimiter = ','
    )]
    topic: Vec<String>,
    /// Kafka's bootstrap servers [default: 127.0.0.1:9092].
    #[arg(long, env = "HIGHWATER_BROKERS", global = true, value_name = "HOST:PORT,…")]
    brokers: Option<String>,
    /// Consumer group [default: highwater].
    #[arg(long, env = "HIGHWATER_GROUP", global = true, value_name = "NAME")]
    group: Option<String>,
    /// Any librdkafka property; may be repeated.
    #[arg(
        long = "kafka",
        env = "HIGHWATER_KAFKA",
        global = true,
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    kafka: Vec<String>,
    /// Schema registry of topics in Avro: http://host:8081, or file:DIR.
    #[arg(
        long,
        env = "HIGHWATER_REGISTRY",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    registry: Option<String>,
    /// PostgreSQL: postgres://user@host/database, or embedded:DIR.
    #[arg(
        long,
        env = "HIGHWATER_WAREHOUSE",
        global = true,
        value_name = "URL",
        hide_env_values = true
    )]
    warehouse: Option<String>,
    /// Where Parquet goes: s3://bucket/prefix or file:///directory.
    #[arg(long, env = "HIGHWATER_LAKE", global = true, value_name = "URL")]
    lake: Option<String>,
    /// HTTP address for metrics, health and status [default: 127.0.0.1:9469].
    #[arg(long, env = "HIGHWATER_LISTEN", global = true, value_name = "ADDR")]
    listen: Option<String>,
    /// Memory budget of the process [default: 512MiB].
    #[arg(long, env = "HIGHWATER_MEMORY", global = true, value_name = "SIZE")]
    memory: Option<String>,
    /// Log format: text or json [default: text].
    #[arg(long, env = "HIGHWATER_LOG", global = true, value_name = "FORMAT")]
    log: Option<String>,
    /// What to log, as in RUST_LOG [default: info].
    #[arg(long, env = "HIGHWATER_LOG_LEVEL", global = true, value_name = "FILTER")]
    log_level: Option<String>,
    /// Secret of `pii = "hash"`; better given as HIGHWATER_PII_SECRET or HIGHWATER_PII_SECRET_FILE.
    #[arg(
        long,
        env = "HIGHWATER_PII_SECRET",
        global = true,
        value_name = "TEXT",
        hide_env_values = true
    )]
    pii_secret: Option<String>,
    /// How often tables are committed while following, the first time after a quarter of it [default: 1s].
    #[arg(long, env = "HIGHWATER_COMMIT_INTERVAL", global = true, value_name = "DURATION")]
    commit_interval: Option<String>,
    /// How often tables are committed while catching up [default: 5s].
    #[arg(long, env = "HIGHWATER_CATCH_UP_INTERVAL", global = true, value_name = "DURATION")]
    catch_up_interval: Option<String>,
    /// How often the service removes what dead processes left staged in the lake [default: 1h].
    #[arg(long, env = "HIGHWATER_SWEEP_INTERVAL", global = true, value_name = "DURATION")]
    sweep_interval: Option<String>,
    /// Of what age, by the store's clock, it must be for that [default: 24h].
    #[arg(long, env = "HIGHWATER_SWEEP_AGE", global = true, value_name = "DURATION")]
    sweep_age: Option<String>,
    /// CA certificates for PostgreSQL over TLS (PEM) [default: the system's].
    #[arg(long, env = "HIGHWATER_WAREHOUSE_CA", global = true, value_name = "FILE")]
    warehouse_ca: Option<PathBuf>,
}

/// The file of `--config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOptions {
    topics: Option<PathBuf>,
    models: Option<PathBuf>,
    #[serde(default)]
    topic: Vec<String>,
    brokers: Option<String>,
    group: Option<String>,
    registry: Option<String>,
    registry_file: Option<PathBuf>,
    warehouse: Option<String>,
    warehouse_file: Option<PathBuf>,
    warehouse_ca: Option<PathBuf>,
    lake: Option<String>,
    listen: Option<String>,
    memory: Option<String>,
    log: Option<String>,
    log_level: Option<String>,
    pii_secret_file: Option<PathBuf>,
    commit_interval: Option<String>,
    catch_up_interval: Option<String>,
    sweep_interval: Option<String>,
    sweep_age: Option<String>,
    #[serde(default)]
    kafka: KafkaFile,
    /// Passed to the object store as they are (`AWS_REGION = "…"`).
    #[serde(default)]
    store: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct KafkaFile {
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

/// As meant.
#[derive(Debug, Clone)]
pub struct Config {
    pub topics: PathBuf,
    pub models: PathBuf,
    /// Empty: all.
    pub only: Vec<String>,
    pub brokers: String,
    /// The brokers can be asked for topic ids. Not a setting: the demo's broker cannot.
    pub topic_ids: bool,
    pub group: String,
    pub kafka_properties: BTreeMap<String, String>,
    /// For topics that say nothing of their own.
    pub registry: Option<String>,
    /// None: the command must say that it is missing.
    pub warehouse: Option<String>,
    pub warehouse_ca: Option<PathBuf>,
    pub lake: Option<String>,
    pub store_options: Vec<(String, String)>,
    pub listen: SocketAddr,
    /// Bytes.
    pub memory: usize,
    pub log: LogFormat,
    pub log_level: String,
    pub pii_secret: Option<Arc<[u8]>>,
    pub commit_interval: Duration,
    pub catch_up_interval: Duration,
    pub sweep_interval: Duration,
    pub sweep_age: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Below this a topic has no room to work in.
const MEMORY_MIN: usize = 128 << 20;

impl Options {
    /// Reads the file, the secrets' files and the store's variables, and checks it all.
    pub fn resolve(self) -> Result<Config> {
        let file = match &self.config {
            Some(path) => read_file_options(path)?,
            None => FileOptions::default(),
        };
        let text = |flag: Option<String>, file: Option<String>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.to_owned())
        };
        let listen = text(self.listen, file.listen, "127.0.0.1:9469");
        let listen = listen.parse().map_err(|_| {
            Error::config(format!("listen address {listen:?} is not ADDRESS:PORT (127.0.0.1:9469)"))
        })?;
        let memory = size("memory", &text(self.memory, file.memory, "512MiB"))?;
        if memory < MEMORY_MIN {
            return Err(Error::config("memory must be at least 128MiB"));
        }
        let log = match text(self.log, file.log, "text").as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                return Err(Error::config(format!("log format {other:?} is not text or json")));
            }
        };
        let mut kafka_properties = file.kafka.properties;
        for pair in &self.kafka {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Error::config(format!("--kafka {pair:?} is not KEY=VALUE")));
            };
            kafka_properties.insert(key.trim().to_owned(), value.to_owned());
        }
        for (variable, property) in [
            ("HIGHWATER_KAFKA_SASL_PASSWORD", "sasl.password"),
            ("HIGHWATER_KAFKA_SSL_KEY_PASSWORD", "ssl.key.password"),
            ("HIGHWATER_KAFKA_SSL_KEYSTORE_PASSWORD", "ssl.keystore.password"),
        ] {
            if let Some(secret) = secret_variable(variable)? {
                kafka_properties.insert(property.to_owned(), secret);
            }
        }
        // The OpenSSL that is built in looks for the system's certificates where no system keeps them.
        let is_named =
            ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|v| std::env::var_os(v).is_some());
        if is_encrypted(&kafka_properties) && !is_named {
            let location = kafka_properties.entry("ssl.ca.location".to_owned());
            location.or_insert_with(|| "probe".to_owned());
        }
        let registry = match (self.registry, secret_from("HIGHWATER_REGISTRY_FILE")?) {
            (Some(url), _) | (None, Some(url)) => Some(url),
            (None, None) => match (file.registry, &file.registry_file) {
                (Some(url), _) => Some(url),
                (None, path) => path.as_deref().map(read_secret).transpose()?,
            },
        };
        let warehouse = match (self.warehouse, secret_from("HIGHWATER_WAREHOUSE_FILE")?) {
            (Some(url), _) | (None, Some(url)) => Some(url),
            (None, None) => match (file.warehouse, &file.warehouse_file) {
                (Some(url), _) => Some(url),
                (None, Some(path)) => Some(read_secret(path)?),
                (None, None) => None,
            },
        };
        let pii_secret = match (self.pii_secret, secret_from("HIGHWATER_PII_SECRET_FILE")?) {
            (Some(secret), _) | (None, Some(secret)) => Some(secret),
            (None, None) => file.pii_secret_file.as_deref().map(read_secret).transpose()?,
        };
        if pii_secret.as_ref().is_some_and(|s| s.len() < 16) {
            return Err(Error::config("the secret of pii = \"hash\" needs at least 16 characters"));
        }
        let only = if self.topic.is_empty() { file.topic } else { self.topic };
        Ok(Config {
            topics: self.topics.or(file.topics).unwrap_or_else(|| "topics".into()),
            models: self.models.or(file.models).unwrap_or_else(|| "sql/models".into()),
            only,
            brokers: text(self.brokers, file.brokers, "127.0.0.1:9092"),
            topic_ids: true,
            group: text(self.group, file.group, "highwater"),
            kafka_properties,
            registry,
            warehouse,
            warehouse_ca: self.warehouse_ca.or(file.warehouse_ca),
            lake: self.lake.or(file.lake),
            store_options: store_options(file.store)?,
            listen,
            memory,
            log,
            log_level: text(self.log_level, file.log_level, "info"),
            pii_secret: pii_secret.map(|s| s.into_bytes().into()),
            commit_interval: duration(
                "commit_interval",
                &text(self.commit_interval, file.commit_interval, "1s"),
            )?,
            catch_up_interval: duration(
                "catch_up_interval",
                &text(self.catch_up_interval, file.catch_up_interval, "5s"),
            )?,
            sweep_interval: duration(
                "sweep_interval",
                &text(self.sweep_interval, file.sweep_interval, "1h"),
            )?,
            sweep_age: duration("sweep_age", &text(self.sweep_age, file.sweep_age, "24h"))?,
        })
    }
}

impl Config {
    pub fn warehouse(&self) -> Result<&str> {
        self.warehouse.as_deref().ok_or_else(|| {
            Error::config(
                "no warehouse is set: give --warehouse postgres://… (or HIGHWATER_WAREHOUSE, or \
                 HIGHWATER_WAREHOUSE_FILE); --warehouse embedded:DIR needs no server",
            )
        })
    }
}

fn read_file_options(path: &Path) -> Result<FileOptions> {
    let text = read_text(path)?;
    toml::from_str(&text)
        .map_err(|e| Error::config(format!("read settings from {}", path.display())).because(e))
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Error::config(format!("read {}", path.display())).because(e))
}

/// A secret's file may end in a line feed that is not part of it.
fn read_secret(path: &Path) -> Result<String> {
    Ok(read_text(path)?.trim_end_matches(['\r', '\n']).to_owned())
}

/// Whether librdkafka is told to speak TLS.
fn is_encrypted(properties: &BTreeMap<String, String>) -> bool {
    let protocol = properties.get("security.protocol");
    protocol.is_some_and(|protocol| protocol.to_ascii_lowercase().ends_with("ssl"))
}

/// The content of the file that the variable names.
fn secret_from(variable: &str) -> Result<Option<String>> {
    std::env::var_os(variable).map(|path| read_secret(Path::new(&path))).transpose()
}

fn secret_variable(variable: &str) -> Result<Option<String>> {
    match std::env::var(variable) {
        Ok(secret) => Ok(Some(secret)),
        Err(_) => secret_from(&format!("{variable}_FILE")),
    }
}

/// The usual `AWS_*`, `GOOGLE_*` and `AZURE_*` variables, each also as `…_FILE`; over the file's.
fn store_options(file: BTreeMap<String, String>) -> Result<Vec<(String, String)>> {
    let mut options = file;
    for (name, value) in std::env::vars() {
        if !["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        match name.strip_suffix("_FILE") {
            // AWS_WEB_IDENTITY_TOKEN_FILE and its like are options of their own.
            Some(base) if name != "AWS_WEB_IDENTITY_TOKEN_FILE" => {
                options.insert(base.to_owned(), read_secret(Path::new(&value))?);
            }
            Some(_) | None => {
                options.insert(name, value);
            }
        }
    }
    Ok(options.into_iter().collect())
}

fn size(name: &str, text: &str) -> Result<usize> {
    let bytes = quantity::size(text).map_err(|why| Error::config(format!("{name}: {why}")))?;
    Ok(bytes as usize)
}

fn duration(name: &str, text: &str) -> Result<Duration> {
    quantity::duration(text).map_err(|why| Error::config(format!("{name}: {why}")))
}
