//! `highwater run`: the always-on service.

use super::{
    health::Health,
    http, load, memory, metrics, plan, references,
    reload::{self, Declared, Reloader, Reloading, Reloads},
    require_lake, require_registry, require_secret,
    service::{Resources, Service},
    sweep,
};
use crate::{
    catalog::Catalog,
    config::Config,
    error::{Error, Kind, Result},
    lake::store::Store,
    pipeline::drift::{self, Known},
    warehouse::postgres::{Warehouse, WarehouseSettings},
};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    ops::Deref,
    pin::Pin,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
};

/// Between the signal and the end; the rest of ten seconds is for leaving the group.
const PATIENCE: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was typed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Request {
    /// End when all that was in the topics at the start is committed.
    #[arg(long)]
    until_caught_up: bool,
    /// First make models anew whose definition is another one than filled their tables, and fill new ones.
    #[arg(long)]
    apply: bool,
    /// With --apply, and when files are taken up while running: read from the lake what Kafka has no more.
    #[arg(long)]
    from_lake: bool,
}

/// Runs until a signal, or until what was there at the start is committed.
pub fn run(config: &Config, request: Request) -> Result<()> {
    let Request { until_caught_up, apply, from_lake } = request;
    memory::spare(config.memory);
    let catalog = load(config)?;
    require_secret(&catalog, config)?;
    require_registry(&catalog)?;
    let runtime = runtime()?;
    let prometheus = metrics::install(config.memory)?;
    let (warehouse, store, catalog) = runtime.block_on(async {
        let warehouse = connect(config).await?;
        let catalog = with_additions(&catalog, &warehouse).await?;
        plan::apply(config, &catalog, &warehouse, apply, from_lake).await?;
        make_ready(warehouse, catalog, config).await
    })?;
    let known = runtime.block_on(known(&catalog, &warehouse))?;
    let handle = runtime.handle().clone();
    // Before the first partition is taken: from then on a signal is answered in good order.
    let signals = Signals::listen(&handle)?;
    let declared = Declared::new(RwLock::new(Arc::new(catalog.clone())));
    if let Some(store) = &store {
        let sweeper = sweep::Sweeper::new(&declared, warehouse.clone(), store.clone());
        handle.spawn(sweeper.run(config.sweep_interval, config.sweep_age));
    }
    let loading = references::load_all(&catalog, &warehouse, store.as_ref());
    let references = runtime.block_on(loading)?;
    references::keep_fresh(&catalog, &references, &warehouse, store.as_ref(), &handle);
    let resources = Resources { warehouse, store, references, known };
    let service = Service::start(&catalog, config, resources, until_caught_up, &handle)?;
    let (reloads, reloading) = match until_caught_up {
        true => (None, None),
        false => {
            let reloader = Reloader::new(service.clone(), declared, from_lake);
            let (reloads, reloading) = Reloads::start(reloader)?;
            (Some(reloads), Some(reloading))
        }
    };
    let site = http::Site::new(service.health.clone(), prometheus, reloads.clone());
    let address = runtime.block_on(http::serve(config.listen, site));
    match address {
        Ok(address) => tracing::info!("serving http://{address}"),
        Err(error) => {
            let _ = service.end(PATIENCE);
            return Err(error);
        }
    }
    let waited = runtime.block_on(wait(&service, signals, reloads));
    reloading.into_iter().for_each(Reloading::end);
    let ended = service.end(PATIENCE);
    runtime.0.shutdown_timeout(Duration::from_secs(1));
    waited.and(ended)
}

/// What a command waits with.
pub struct Runtime(tokio::runtime::Runtime);

pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map(Runtime)
        .map_err(|e| Error::halt("start the runtime").because(e))
}

impl Runtime {
    /// Behind a pointer, for the compiler makes tokio's loops anew for each type, with all of the command in them.
    pub fn block_on<'f, T>(&self, future: impl Future<Output = T> + 'f) -> T {
        let future: Pin<Box<dyn Future<Output = T> + 'f>> = Box::pin(future);
        self.0.block_on(future)
    }
}

impl Deref for Runtime {
    type Target = tokio::runtime::Runtime;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// What is known of the tables of each topic's source.
async fn known(catalog: &Catalog, warehouse: &Warehouse) -> Result<BTreeMap<Arc<str>, Known>> {
    let mut known = BTreeMap::new();
    for name in catalog.topics.keys() {
        known.insert(name.clone(), Known::load(warehouse, name).await?);
    }
    Ok(known)
}

/// The catalog with what was added to its topics by themselves.
pub async fn with_additions(catalog: &Catalog, warehouse: &Warehouse) -> Result<Catalog> {
    let additions = warehouse.additions(None).await?;
    catalog.with_additions(&additions).map_err(|mistakes| drift::config(&mistakes))
}

/// Warehouse and store, ready for the catalog; and the catalog as it is there.
pub async fn open(
    catalog: &Catalog,
    config: &Config,
) -> Result<(Warehouse, Option<Store>, Catalog)> {
    let warehouse = connect(config).await?;
    let catalog = with_additions(catalog, &warehouse).await?;
    make_ready(warehouse, catalog, config).await
}

/// The warehouse, at this version's migrations.
pub async fn connect(config: &Config) -> Result<Warehouse> {
    let settings =
        WarehouseSettings { ca_file: config.warehouse_ca.clone(), ..WarehouseSettings::default() };
    let warehouse = Warehouse::connect(config.warehouse()?, &settings).await?;
    warehouse.migrate().await?;
    Ok(warehouse)
}

async fn make_ready(
    warehouse: Warehouse,
    catalog: Catalog,
    config: &Config,
) -> Result<(Warehouse, Option<Store>, Catalog)> {
    require_lake(&catalog, config)?;
    warehouse.declare_topics(catalog.topics.values()).await?;
    let models: Vec<_> = catalog.models.values().cloned().collect();
    warehouse.ensure_tables(&models).await?;
    let store = match &config.lake {
        Some(url) => {
            let store = Store::open(url, &config.store_options)?;
            store.probe().await?;
            Some(store.of_warehouse(warehouse.id().await?))
        }
        None => None,
    };
    Ok((warehouse, store, catalog))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen(runtime: &Handle) -> Result<Self> {
        let _within = runtime.enter();
        let heard = |kind| signal(kind).map_err(|e| Error::halt("listen for signals").because(e));
        Ok(Self {
            terminate: heard(SignalKind::terminate())?,
            interrupt: heard(SignalKind::interrupt())?,
            hangup: heard(SignalKind::hangup())?,
        })
    }
}

/// Without `reloads`: until it is caught up.
async fn wait(service: &Service, mut signals: Signals, reloads: Option<Reloads>) -> Result<()> {
    let until_caught_up = reloads.is_none();
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut progress = Progress::new();
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hangup.recv() => match &reloads {
                Some(reloads) => reloads.ask(),
                None => tracing::warn!("{}", reload::UNTIL_CAUGHT_UP),
            },
            _ = look.tick() => {
                progress.show(&service.health);
                // Following, a stopped topic leaves the others going; /readyz says so.
                if service.is_over() || until_caught_up && service.has_stopped_topic() {
                    return Ok(());
                }
                if until_caught_up && let Some(done) = caught_up(service).await {
                    progress.end();
                    return done;
                }
            }
        }
    }
}

/// None: not yet. A database or a store that is away now is waited for like in any other moment.
async fn caught_up(service: &Service) -> Option<Result<()>> {
    match service.is_caught_up().await {
        Ok(done) => done.then_some(Ok(())),
        Err(error) if error.kind == Kind::Halt => Some(Err(error)),
        Err(error) => {
            tracing::warn!("not known to be caught up: {error}");
            None
        }
    }
}

/// One line on a terminal while catching up.
struct Progress {
    shown: Option<(Instant, u64)>,
    on: bool,
}

impl Progress {
    fn new() -> Self {
        Self { shown: None, on: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, health: &Health) {
        let now = Instant::now();
        if !self.on || self.shown.is_some_and(|(at, _)| now - at < Duration::from_secs(1)) {
            return;
        }
        let topics = health.topics();
        let records: u64 = topics.iter().map(|t| t.records).sum();
        let behind =
            |p: &crate::pipeline::PartitionStatus| p.end.map_or(0, |end| (end - p.fetched).max(0));
        let remaining: i64 = topics.iter().flat_map(|t| &t.partitions).map(behind).sum();
        let rate = match self.shown {
            // A topic that begins anew counts anew.
            Some((at, before)) => records.saturating_sub(before) as f64 / (now - at).as_secs_f64(),
            None => 0.0,
        };
        self.shown = Some((now, records));
        eprint!("\r\x1b[K{records} records, {rate:.0}/s, {remaining} remaining");
        let _ = std::io::stderr().flush();
    }

    fn end(&self) {
        if self.on {
            eprintln!();
        }
    }
}
