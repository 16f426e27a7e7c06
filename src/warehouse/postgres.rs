//! The edge to PostgreSQL ⇄: connections, sessions, transactions, time limits.
//!
//! Owns: how a server is reached, when a connection is thrown away, what an error becomes. The only
//! file that names the client library and its pool. Does not own: any statement.
//!
//! A session goes back to the pool only after everything on it went well ([`Session::give_back`]).
//! Dropped in any other way - an error, a time limit, a caller that went away - its connection is
//! closed, and the server rolls back. So no half-done transaction is ever handed to the next user.

use super::{encode::Elements, encode::copy, sqlstate, sqlstate::Phase, tables::Table, tls};
use crate::error::{Error, Kind, Result};
use bytes::{Bytes, BytesMut};
use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use futures::SinkExt;
use std::{
    collections::HashMap,
    future::Future,
    path::PathBuf,
    pin::pin,
    sync::{Arc, RwLock},
    time::Duration,
};
pub(super) use tokio_postgres::Row;
use tokio_postgres::{Config, SimpleQueryMessage, config::SslMode, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long to wait for a server that does not answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection without a sign of life for this long is asked for one ...
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// ... this often ...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// ... and given up after so many silences.
const KEEPALIVE_RETRIES: u32 = 3;
/// A whole transaction may take this many times a statement's limit; then it is given up.
const STATEMENTS_PER_TRANSACTION: u32 = 4;
/// COPY hands over pieces of this many bytes.
const COPY_PIECE_BYTES: usize = 256 << 10;

/// Whatever can stand for `$1`.
pub(super) type Parameter<'a> = &'a (dyn ToSql + Sync);

#[derive(Debug, Clone)]
pub struct WarehouseSettings {
    /// At most this many connections; who needs one more waits. The embedded database has one.
    pub max_connections: usize,
    /// The server stops a statement after this long; the cut is tried again.
    pub statement_timeout: Duration,
    /// PEM. Who signs the server's certificate, where the system's roots do not know.
    pub ca_file: Option<PathBuf>,
    /// A delta of more rows goes by COPY through a temporary table, a smaller one by one INSERT.
    pub insert_rows_max: usize,
}

impl Default for WarehouseSettings {
    fn default() -> Self {
        Self {
            max_connections: 8,
            statement_timeout: Duration::from_secs(30),
            ca_file: None,
            insert_rows_max: 1_000,
        }
    }
}

/// PostgreSQL, as everything else sees it. Clones share connections and known models.
#[derive(Clone)]
pub struct Warehouse {
    // Before `embedded`: its connections end before its server does.
    pool: Pool,
    pub(super) settings: Arc<WarehouseSettings>,
    /// By model: what `ensure_tables` was given.
    tables: Arc<RwLock<HashMap<Arc<str>, Arc<Table>>>>,
    #[cfg(feature = "embedded")]
    embedded: Option<Arc<super::embedded::Server>>,
}

impl Warehouse {
    /// `postgres://…` (as libpq reads it, without what tokio-postgres does not know) or
    /// `embedded:DIR`. Asks the server for a first answer, so that wrong settings show now.
    ///
    /// # Errors
    /// `Config`: the URL, the credentials or the certificates are wrong; `Retry`: out of reach.
    pub async fn connect(url: &str, settings: &WarehouseSettings) -> Result<Self> {
        let warehouse = match url.strip_prefix("embedded:") {
            Some(directory) => Self::open_embedded(directory, settings).await?,
            None => {
                let config = parse(url)?;
                Self::with_pool(config, settings.max_connections, settings)?
            }
        };
        warehouse.ping().await?;
        Ok(warehouse)
    }

    #[cfg(feature = "embedded")]
    async fn open_embedded(directory: &str, settings: &WarehouseSettings) -> Result<Self> {
        let directory = PathBuf::from(directory);
        let server =
            tokio::task::spawn_blocking(move || super::embedded::Server::start(&directory))
                .await
                .map_err(|e| Error::halt("the embedded database did not start").because(e))??;
        let mut config = Config::new();
        config.host_path(server.socket_directory()).user("postgres").dbname("postgres");
        config.ssl_mode(SslMode::Disable);
        let mut warehouse = Self::with_pool(config, 1, settings)?;
        warehouse.embedded = Some(Arc::new(server));
        Ok(warehouse)
    }

    #[cfg(not(feature = "embedded"))]
    async fn open_embedded(_: &str, _: &WarehouseSettings) -> Result<Self> {
        Err(Error::config("embedded: needs a highwater built with the feature `embedded`"))
    }

    fn with_pool(
        mut config: Config,
        connections: usize,
        settings: &WarehouseSettings,
    ) -> Result<Self> {
        config.keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL);
        config.keepalives_retries(KEEPALIVE_RETRIES);
        if config.get_application_name().is_none() {
            config.application_name("highwater");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match config.get_ssl_mode() {
            SslMode::Disable => Manager::from_config(config, tokio_postgres::NoTls, recycling),
            mode => {
                let tls = tls::config(mode != SslMode::Prefer, settings.ca_file.as_deref())?;
                Manager::from_config(config, MakeRustlsConnect::new(tls), recycling)
            }
        };
        let pool = Pool::builder(manager)
            .max_size(connections.max(1))
            .timeouts(Timeouts {
                wait: Some(settings.statement_timeout),
                create: Some(CONNECT_TIMEOUT + settings.statement_timeout),
                recycle: Some(CONNECT_TIMEOUT),
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|e| Error::halt("the pool of connections cannot be built").because(e))?;
        Ok(Self {
            pool,
            settings: Arc::new(settings.clone()),
            tables: Arc::default(),
            #[cfg(feature = "embedded")]
            embedded: None,
        })
    }

    /// Whether the server answers.
    pub async fn ping(&self) -> Result<()> {
        self.within("ask the warehouse for a sign of life", async {
            let session = self.session().await?;
            session.batch("ask the warehouse for a sign of life", "SELECT").await?;
            session.give_back();
            Ok(())
        })
        .await
    }

    /// Leaves nothing but the schema of an embedded database that is thrown away.
    ///
    /// # Errors
    /// `Halt`: it is a server's, of whose tables nobody knows what else they are for.
    #[cfg(feature = "embedded")]
    pub async fn empty(&self) -> Result<()> {
        let doing = "empty the database of tests";
        if self.embedded.is_none() {
            return Err(Error::halt(format!("{doing}: it is not embedded")));
        }
        self.within(doing, async {
            let session = self.session().await?;
            session.batch(doing, include_str!("../../sql/warehouse/empty.sql")).await?;
            session.give_back();
            Ok(())
        })
        .await
    }

    /// Ends all connections and, where it is the last clone, the embedded database: its directory
    /// can then be opened again.
    pub async fn close(self) {
        self.pool.close();
        // Ends with the backend's shutdown, which blocks.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// The longest that one transaction may take, whatever the server does.
    pub(super) fn transaction_timeout(&self) -> Duration {
        self.settings.statement_timeout * STATEMENTS_PER_TRANSACTION
    }

    /// Gives up after [`Self::transaction_timeout`]: for work that can be done again.
    pub(super) async fn within<T>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.transaction_timeout(), work).await {
            Ok(result) => result,
            Err(_) => Err(Error::retry(format!(
                "{doing}: no answer in time, seconds={}",
                self.transaction_timeout().as_secs()
            ))),
        }
    }

    pub(super) async fn session(&self) -> Result<Session> {
        match self.pool.get().await {
            Ok(client) => Ok(Session { client: Some(client) }),
            Err(PoolError::Backend(error)) => Err(failed_to_connect(error)),
            Err(PoolError::Closed) => Err(Error::halt("the warehouse was closed")),
            Err(error) => {
                Err(Error::retry("no connection to the warehouse in time").because(error))
            }
        }
    }

    /// A transaction; it ends with [`Session::commit`], or is rolled back by dropping it.
    pub(super) async fn begin(&self, doing: &str) -> Result<Session> {
        let session = self.session().await?;
        session.batch(doing, include_str!("../../sql/warehouse/begin.sql")).await?;
        let limit = format!("{}ms", self.settings.statement_timeout.as_millis());
        let sql = include_str!("../../sql/warehouse/limit_transaction.sql");
        session.query(doing, sql, &[&limit]).await?;
        Ok(session)
    }

    pub(super) fn know(&self, tables: impl IntoIterator<Item = Table>) {
        let mut known = self.tables.write().unwrap_or_else(|e| e.into_inner());
        known.extend(tables.into_iter().map(|table| (table.model.clone(), Arc::new(table))));
    }

    /// Statements whose columns have other types now are read by PostgreSQL anew.
    pub fn forget_statements(&self) {
        self.pool.manager().statement_caches.clear();
    }

    pub(super) fn table(&self, model: &str) -> Result<Arc<Table>> {
        let known = self.tables.read().unwrap_or_else(|e| e.into_inner());
        known.get(model).cloned().ok_or_else(|| {
            Error::halt(format!("a cut yields rows of a model without a table, model={model}"))
        })
    }
}

/// One connection, and perhaps a transaction on it.
pub(super) struct Session {
    /// None only while it is given back.
    client: Option<Object>,
}

impl Session {
    fn client(&self) -> &Object {
        self.client.as_ref().expect("a session has its connection until it is given back")
    }

    /// For work done well: the next user may have the connection.
    pub fn give_back(mut self) {
        drop(self.client.take());
    }

    pub async fn batch(&self, doing: &str, sql: &str) -> Result<()> {
        self.client().batch_execute(sql).await.map_err(|e| failed(doing, Phase::BeforeCommit, e))
    }

    /// Rows changed.
    pub async fn execute(&self, doing: &str, sql: &str, values: &[Parameter<'_>]) -> Result<u64> {
        let run = async {
            let statement = self.client().prepare_cached(sql).await?;
            self.client().execute(&statement, values).await
        };
        run.await.map_err(|e| failed(doing, Phase::BeforeCommit, e))
    }

    pub async fn query(
        &self,
        doing: &str,
        sql: &str,
        values: &[Parameter<'_>],
    ) -> Result<Vec<Row>> {
        let run = async {
            let statement = self.client().prepare_cached(sql).await?;
            self.client().query(&statement, values).await
        };
        run.await.map_err(|e| failed(doing, Phase::BeforeCommit, e))
    }

    /// The simple protocol: any statements, every value as text, of the last one that gives rows.
    pub async fn text(&self, sql: &str) -> Result<(Vec<String>, Vec<Vec<Option<String>>>)> {
        let messages = self.client().simple_query(sql).await;
        let messages = messages.map_err(|e| failed("run a query", Phase::BeforeCommit, e))?;
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    names = columns.iter().map(|column| column.name().to_owned()).collect();
                    rows.clear();
                }
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        Ok((names, rows))
    }

    /// All rows of `columns` by COPY; `sql` names the columns in the same order.
    pub async fn copy(
        &self,
        doing: &str,
        sql: &str,
        columns: &[Elements<'_>],
        rows: usize,
    ) -> Result<()> {
        let lost = |e| failed(doing, Phase::BeforeCommit, e);
        let statement = self.client().prepare_cached(sql).await.map_err(lost)?;
        let sink = self.client().copy_in::<_, Bytes>(&statement).await.map_err(lost)?;
        let mut sink = pin!(sink);
        let mut piece = BytesMut::with_capacity(COPY_PIECE_BYTES + 4096);
        copy::put_header(&mut piece);
        for row in 0..rows {
            copy::put_row(columns, row, &mut piece).map_err(|e| {
                Error::halt(format!("{doing}: a value cannot be written")).because(e)
            })?;
            if piece.len() >= COPY_PIECE_BYTES {
                sink.send(piece.split().freeze()).await.map_err(lost)?;
                piece.reserve(COPY_PIECE_BYTES + 4096);
            }
        }
        copy::put_trailer(&mut piece);
        sink.send(piece.freeze()).await.map_err(lost)?;
        sink.finish().await.map(drop).map_err(lost)
    }

    /// # Errors
    /// `Unknown` where the server's answer was lost: it may have been committed.
    pub async fn commit(self, doing: &str) -> Result<()> {
        let done = self.client().batch_execute("COMMIT").await;
        done.map_err(|e| failed(doing, Phase::Committing, e))?;
        self.give_back();
        Ok(())
    }

    pub async fn roll_back(self, doing: &str) -> Result<()> {
        self.batch(doing, "ROLLBACK").await?;
        self.give_back();
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

fn parse(url: &str) -> Result<Config> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(Error::config(
            "the warehouse's URL is neither postgres://… nor embedded:DIR (not shown: it may hold a password)",
        ));
    }
    // `require` verifies here whatever these two would: see `tls`.
    let url = url.replace("sslmode=verify-full", "sslmode=require");
    let url = url.replace("sslmode=verify-ca", "sslmode=require");
    url.parse().map_err(|e: tokio_postgres::Error| {
        Error::config("the warehouse's URL cannot be read").because(e)
    })
}

fn failed(doing: &str, phase: Phase, error: tokio_postgres::Error) -> Error {
    let state = error.code().map(|code| code.code());
    // What this side could not encode or decode was no fault of the connection.
    let kind = match state {
        None if is_local(&error) => Kind::Halt,
        state => sqlstate::kind(state, phase),
    };
    let context = match state {
        Some(state) => format!("{doing} failed, sqlstate={state}"),
        None => format!("{doing} failed"),
    };
    Error::new(kind, context).because(error)
}

fn failed_to_connect(error: tokio_postgres::Error) -> Error {
    let doing = "connect to the warehouse";
    if refuses_certificate(&error) {
        let remedy =
            "its certificate is not trusted: --warehouse-ca names the file of who signed it";
        return Error::config(format!("{doing} failed: {remedy}")).because(error);
    }
    if says(&error, "invalid configuration") {
        return Error::config(format!("{doing} failed")).because(error);
    }
    failed(doing, Phase::BeforeCommit, error)
}

/// The library keeps its kinds of error to itself, but for their words.
fn says(error: &tokio_postgres::Error, words: &str) -> bool {
    error.to_string().starts_with(words)
}

fn is_local(error: &tokio_postgres::Error) -> bool {
    ["error serializing", "error deserializing", "invalid column", "expected "]
        .iter()
        .any(|words| says(error, words))
}

fn refuses_certificate(error: &tokio_postgres::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        if inner.is_some_and(|e| e.is::<rustls::Error>()) {
            return true;
        }
        next = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_read_does_not_show_its_password() {
        for url in [
            "postgres://u:secret@h:port/db",
            "mysql://u:secret@h/db",
            "postgres://u:secret@h/d?x=1",
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.kind, Kind::Config, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn verifying_modes_of_libpq_are_require() {
        let config = parse("postgres://h/db?sslmode=verify-full").unwrap();
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
    }
}
