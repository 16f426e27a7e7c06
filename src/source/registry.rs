//! ⇄ Schemas by the ids that records carry: from a schema registry over HTTP, or from a folder.
//!
//! Owns: asking, and telling an outage from a denial. Does not own: what is told ([`Schemas`]), what
//! a schema means (`decode`).
//!
//! SUBTLE: only the registry's own word that it has no such schema (error code 40403) is a denial,
//! which makes records dead letters. Any other answer (a proxy's page, a wrong path, a missing
//! right) is an outage: records wait, and nothing is refused for it.
//!
//! Source: Confluent's documentation, "Schema Registry API Reference"; Apicurio's and Karapace's
//! registries have the same.

use crate::{
    catalog::{Format, Topic},
    error::{Error, Result, UNTRUSTED, UNTRUSTED_REMEDY},
    record::{
        RawRecord,
        schemas::{SchemaId, Schemas, Told, framed},
    },
};
use reqwest::{Client, Url};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// After a failure, before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// A denied schema may be registered later; what comes of it then is asked for again.
const DENIAL: Duration = Duration::from_secs(10);
/// Schemas that one refers to, all levels down.
const REFERENCES_MAX: usize = 256;

pub struct Registry {
    place: Place,
    schemas: Arc<Schemas>,
}

enum Place {
    Http(Client, Url),
    /// Files `ID.avsc`.
    Folder(PathBuf),
}

impl Registry {
    /// `place` is what the catalog has checked.
    pub fn new(place: &str, schemas: Arc<Schemas>) -> Result<Self> {
        let wrong = || Error::config("set up a client of the schema registry");
        let place = match place.strip_prefix("file:") {
            Some(folder) => Place::Folder(folder.into()),
            None => {
                let client = Client::builder().timeout(ANSWER_WAIT).build();
                let url = Url::parse(place).map_err(|e| wrong().because(e))?;
                Place::Http(client.map_err(|e| wrong().because(e))?, url)
            }
        };
        Ok(Self { place, schemas })
    }

    /// Of a topic that has one.
    pub fn of(topic: &Topic) -> Result<Option<Self>> {
        match &topic.registry {
            Some(place) if topic.format.has_schemas() => Self::new(place, Arc::default()).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    pub fn schemas(&self) -> Arc<Schemas> {
        self.schemas.clone()
    }

    /// Asks for each and tells what it hears.
    ///
    /// # Errors
    /// `Retry`: the registry does not answer, or not as one does.
    pub async fn learn(&self, ids: &BTreeSet<SchemaId>) -> Result<()> {
        for id in ids {
            let told = match &self.place {
                Place::Http(client, url) => self.over_http(client, url, *id).await?,
                Place::Folder(folder) => in_folder(folder, *id)?,
            };
            self.schemas.tell(*id, told);
        }
        Ok(())
    }

    async fn over_http(&self, client: &Client, url: &Url, id: SchemaId) -> Result<Told> {
        let Some(answer) = get(client, url, &["schemas", "ids", &id.to_string()]).await? else {
            return Ok(Told::Denied("the schema registry has none of this id".into()));
        };
        match answer["schemaType"].as_str() {
            None | Some("AVRO") => {}
            Some(other) => {
                return Ok(Told::Denied(format!("its type is {other}, not AVRO").into()));
            }
        }
        // Each comes behind what it refers to.
        let (mut texts, mut asked) = (Vec::new(), BTreeSet::new());
        let mut steps = vec![Step::Open(answer)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Open(answer) => {
                    let text = answer["schema"].as_str().map(str::to_owned);
                    let text = text.ok_or_else(|| strange(url, "an answer without `schema`"))?;
                    steps.push(Step::Close(text));
                    for reference in answer["references"].as_array().into_iter().flatten() {
                        let subject = reference["subject"].as_str().unwrap_or_default().to_owned();
                        steps.push(Step::Ask(subject, reference["version"].to_string()));
                    }
                }
                Step::Close(text) => texts.push(text),
                Step::Ask(subject, version) => {
                    if !asked.insert((subject.clone(), version.clone())) {
                        continue;
                    }
                    let found =
                        get(client, url, &["subjects", &subject, "versions", &version]).await?;
                    let Some(answer) = found.filter(|_| asked.len() <= REFERENCES_MAX) else {
                        let why = format!("it refers to {subject} {version}, which is not there");
                        return Ok(Told::Denied(why.into()));
                    };
                    steps.push(Step::Open(answer));
                }
            }
        }
        Ok(Told::Schema(texts.into()))
    }
}

/// On the way through what schemas refer to.
enum Step {
    Ask(String, String),
    Open(Value),
    Close(String),
}

/// What lies at a path; None: the registry says that there is nothing.
async fn get(client: &Client, base: &Url, path: &[&str]) -> Result<Option<Value>> {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    let lost = |e: reqwest::Error| {
        let lost = strange(base, "no answer").because(e.without_url());
        match lost.to_string().contains(UNTRUSTED) {
            true => Error { context: format!("{}: {UNTRUSTED_REMEDY}", lost.context), ..lost },
            false => lost,
        }
    };
    let response = client.get(url).send().await.map_err(lost)?;
    let status = response.status();
    let body = response.bytes().await.map_err(lost)?;
    let answer = serde_json::from_slice::<Value>(&body).unwrap_or(Value::Null);
    match (status.as_u16(), answer["error_code"].as_u64()) {
        (200, _) if answer.is_object() => Ok(Some(answer)),
        // No such schema, subject, version.
        (404, Some(40401..=40403)) => Ok(None),
        (401 | 403, _) => Err(strange(
            base,
            "it refuses us: user and password belong into the setting `registry`",
        )),
        _ => Err(strange(base, &format!("it answers {status}, not as a registry does"))),
    }
}

/// Something is wrong with the registry: what, without a password.
fn strange(url: &Url, what: &str) -> Error {
    let (host, port) = (url.host_str().unwrap_or(""), url.port_or_known_default());
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    Error::retry(format!("schema registry {}://{host}{port}{}: {what}", url.scheme(), url.path()))
}

fn in_folder(folder: &std::path::Path, id: SchemaId) -> Result<Told> {
    let file = folder.join(format!("{id}.avsc"));
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Told::Schema([text].into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && folder.is_dir() => {
            Ok(Told::Denied(format!("the registry's folder has no file {id}.avsc").into()))
        }
        Err(e) => Err(Error::retry(format!("schema registry: read {}", file.display())).because(e)),
    }
}

/// Asks in a thread of its own, so that who waits can do so in small steps.
pub struct Inquiry {
    schemas: Arc<Schemas>,
    asked: Sender<BTreeSet<SchemaId>>,
    answers: Receiver<Result<()>>,
    is_under_way: bool,
    trouble: Option<String>,
    denied: BTreeMap<SchemaId, Instant>,
}

impl Inquiry {
    pub fn start(topic: &Topic) -> Result<Option<Self>> {
        let Some(registry) = Registry::of(topic)? else { return Ok(None) };
        let (asked, questions) = mpsc::channel::<BTreeSet<SchemaId>>();
        let (told, answers) = mpsc::channel();
        let schemas = registry.schemas();
        let failed =
            |e: std::io::Error| Error::halt("start a thread for the schema registry").because(e);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let ask = move || {
            for ids in questions {
                let answer = runtime.block_on(registry.learn(&ids));
                let failed = answer.is_err();
                if told.send(answer).is_err() {
                    return;
                }
                if failed {
                    std::thread::sleep(PAUSE);
                }
            }
        };
        std::thread::Builder::new().name("registry".to_owned()).spawn(ask).map_err(failed)?;
        Ok(Some(Self {
            schemas,
            asked,
            answers,
            is_under_way: false,
            trouble: None,
            denied: BTreeMap::new(),
        }))
    }

    pub fn schemas(&self) -> Arc<Schemas> {
        self.schemas.clone()
    }

    /// Why the registry does not answer, where it does not.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    /// Whether the registry has told of every one of these; asks for those it has not, and waits
    /// no longer than `timeout`.
    pub fn is_done(&mut self, ids: &BTreeSet<SchemaId>, timeout: Duration) -> bool {
        let mut wanted = self.schemas.unknown(ids);
        let stale = |id: &&SchemaId| self.denied.get(id).is_some_and(|at| at.elapsed() > DENIAL);
        wanted.extend(ids.iter().filter(stale));
        if wanted.is_empty() {
            return true;
        }
        if !self.is_under_way {
            // The thread ends with us, not before.
            self.is_under_way = self.asked.send(wanted.clone()).is_ok();
        }
        let Ok(answer) = self.answers.recv_timeout(timeout) else { return false };
        self.is_under_way = false;
        self.trouble = answer.err().map(|error| error.to_string());
        if let Some(why) = &self.trouble {
            tracing::warn!("{why}");
            return false;
        }
        for id in ids {
            match self.schemas.get(*id) {
                Some(Told::Denied(_)) => drop(self.denied.insert(*id, Instant::now())),
                Some(Told::Schema(_)) | None => drop(self.denied.remove(id)),
            }
        }
        self.schemas.unknown(ids).is_empty()
    }
}

/// The schemas that records refer to; keys of Debezium's events have some too.
pub fn referred(topic: &Topic, records: &[RawRecord<'_>]) -> BTreeSet<SchemaId> {
    let keys = topic.format == Format::DebeziumAvro;
    let mut ids = BTreeSet::new();
    let mut last = [None; 2];
    for record in records {
        for (part, last) in [record.value, record.key.filter(|_| keys)].iter().zip(&mut last) {
            let id = part.and_then(framed).map(|(id, _)| id);
            // Mostly it is the one before.
            if id != *last {
                ids.extend(id);
                *last = id;
            }
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(place: &str, id: u32) -> (Result<()>, Option<Told>) {
        let registry = Registry::new(place, Arc::default()).expect("a place");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ids = BTreeSet::from([SchemaId(id)]);
        let learnt = runtime.expect("tokio").block_on(registry.learn(&ids));
        (learnt, registry.schemas().get(SchemaId(id)))
    }

    #[test]
    fn a_file_that_is_not_in_the_folder_is_denied_and_a_folder_that_is_not_there_is_an_outage() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = format!("file:{}", folder.path().display());
        std::fs::write(folder.path().join("7.avsc"), "\"long\"").expect("a schema");
        assert_eq!(learn(&place, 7).1, Some(Told::Schema(["\"long\"".to_owned()].into())));
        let (learnt, told) = learn(&place, 8);
        assert!(learnt.is_ok());
        assert!(matches!(told, Some(Told::Denied(why)) if why.contains("8.avsc")));
        let (learnt, told) = learn(&format!("{place}/none"), 7);
        assert_eq!(learnt.expect_err("an outage").kind, crate::error::Kind::Retry);
        assert_eq!(told, None);
    }

    #[test]
    fn what_is_said_of_a_registry_that_is_away_has_no_password_in_it() {
        let (learnt, told) = learn("http://ada:lovelace@127.0.0.1:9/base", 1);
        let error = learnt.expect_err("nobody listens there");
        assert_eq!((error.kind, told), (crate::error::Kind::Retry, None));
        let text = error.to_string();
        assert!(text.starts_with("schema registry http://127.0.0.1:9/base: no answer"), "{text}");
        assert!(!text.contains("lovelace"), "{text}");
    }
}
