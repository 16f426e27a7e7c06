//! What the user declared: topic files and models, checked as a whole before anything starts.
//!
//! Owns: the meaning of every key and clause, PostgreSQL types <-> Arrow types, all checking.
//! Does not own: reading the file system beyond [`load`], running anything.
//!
//! Every mistake is reported at once, each with file, line, what is wrong and what is allowed.
//! What leaves this stage is complete: later stages never ask whether a column exists.
//!
//! ```text
//! topics/NAME.toml ─► topic_file ─► Topic ─┐
//!                                          ├─► decompose ─► Model      each with all mistakes
//! sql/models/NAME.sql ─► sql ──────────────┘     ├ scalar     expressions are DataFusion's; surrogate_key is ours
//!                        shape of the statement  │   planner reads and binds them
//!                                                ├ grouped    GROUP BY into keys and parts
//!                                                ├ folding    models over changes
//!                                                ├ window     what windows there are
//!                                                ├ parts      what an aggregate needs, …
//!                                                ├ kept       … and the columns of that
//!                                                └ generated  what PostgreSQL computes from parts
//! ```

pub mod model;
pub mod topic;
pub mod types;

mod calls;
mod changes;
mod csv_file;
mod decompose;
mod definition;
mod describe;
pub mod drift;
mod fingerprint;
pub mod folding;
mod generated;
mod grouped;
mod kept;
mod lake_file;
mod mistake;
mod parts;
mod planner;
mod reference;
mod scalar;
mod sql;
mod surrogate_key;
#[cfg(test)]
mod tests;
mod toml_table;
mod topic_file;
mod topic_letters;
mod topic_time;
mod unique;
mod widened;
mod window;

pub use changes::{ChangeSpec, Decimals, Encoding, Images, Order, Snapshots, Tombstones, Unit};
pub use csv_file::{CsvSpec, QLIK_PREFIX};
pub use definition::Definition;
pub use describe::describe;
pub use drift::{Drift, Upstream};
pub use folding::{Folding, Keeps};
pub use mistake::Mistake;
pub use model::{
    Aggregate, Column, Estimate, Extreme, Key, Late, Merge, Model, ModelKind, Moments, Part,
    PartColumn, PartFunction, Pick, Rank, Role, Rows, SketchKind, ValueSet,
};
pub use planner::Planner;
pub use reference::{FileKind, Join, Place, Reference};
pub use topic::{
    Format, INDEX, LakeSpec, PartitionBy, PartitionFunction, Pii, ServiceDay, Topic, TopicColumn,
};
pub use topic_file::check_registry;
pub use types::PgType;
pub use unique::UniqueSpec;
pub use widened::{Addition, Additions};
pub use window::{Grid, Hop, Shape, Window};

use mistake::{Page, unknown};
use reference::ReferenceDraft;
use scalar::Scalars;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use topic_file::Draft;

/// All topics and models, by name.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub topics: BTreeMap<Arc<str>, Arc<Topic>>,
    /// Those that a model joins.
    pub references: BTreeMap<Arc<str>, Arc<Reference>>,
    /// In order of name; each names a topic above.
    pub models: BTreeMap<Arc<str>, Arc<Model>>,
    /// What it was read from: the files may be others by now.
    sources: Arc<[Vec<Source>; 2]>,
}

/// A file's path, for messages, and its text.
pub type Source = (PathBuf, String);

/// Reads `*.toml` of one directory and `*.sql` of the other (not of directories below) and checks
/// them. The mistakes are sorted by file and line.
pub fn load(topics_dir: &Path, models_dir: &Path) -> Result<Catalog, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let topics = sources(topics_dir, "toml", "topic files, NAME.toml", &mut mistakes);
    let models = sources(models_dir, "sql", "models, NAME.sql", &mut mistakes);
    let readable = topics.is_some();
    if readable && topics.as_ref().is_some_and(Vec::is_empty) {
        mistakes.push(Mistake {
            file: topics_dir.to_owned(),
            line: 1,
            what: "no topic file in this directory. Allowed: at least one NAME.toml".into(),
        });
    }
    // Without any topic every model would be on an unknown one: that is one mistake, not many.
    let checked = match topics.filter(|topics| !topics.is_empty()) {
        Some(topics) => check(&topics, &models.unwrap_or_default()),
        None => Ok(Catalog::default()),
    };
    match checked {
        Ok(catalog) if mistakes.is_empty() => Ok(catalog),
        Ok(_) => Err(sorted(mistakes)),
        Err(more) => {
            mistakes.extend(more);
            Err(sorted(mistakes))
        }
    }
}

impl Catalog {
    /// Gives the topics that say nothing of their own the schema registry of the settings.
    pub fn set_registry(&mut self, place: Option<&str>) {
        for topic in self.topics.values_mut() {
            if topic.format.has_schemas() && topic.registry.is_none() {
                Arc::make_mut(topic).registry = place.map(str::to_owned);
            }
        }
    }

    /// In order of name.
    pub fn models_of(&self, topic: &str) -> impl Iterator<Item = Arc<Model>> {
        self.models.values().filter(move |model| *model.topic == *topic).cloned()
    }

    /// The text that it was read from.
    pub fn file(&self, file: &Path) -> Option<&str> {
        let source = self.sources.iter().flatten().find(|(path, _)| path == file);
        source.map(|(_, text)| text.as_str())
    }

    /// All that says what becomes of a topic's records: its own file, those of its models and of what they join.
    pub fn files_of(&self, topic: &str) -> Vec<Source> {
        let mut files = vec![self.topics[topic].file.clone()];
        for model in self.models_of(topic) {
            files.push(model.file.clone());
            files.extend(model.join.as_ref().map(|join| join.reference.rows.file.clone()));
        }
        let of_topic = |(path, _): &&Source| files.contains(path);
        self.sources.iter().flatten().filter(of_topic).cloned().collect()
    }

    /// The same with what was recorded as added to topics. The mistakes are those that come of that.
    pub fn with_additions(&self, additions: &Additions) -> Result<Self, Vec<Mistake>> {
        let [topics, models] = &*self.sources;
        let mut whole = check_with(topics, models, additions)?;
        whole.topics.retain(|name, _| self.topics.contains_key(name));
        whole.models.retain(|name, _| self.models.contains_key(name));
        whole.references.retain(|name, _| self.references.contains_key(name));
        for (name, topic) in &mut whole.topics {
            Arc::make_mut(topic).registry.clone_from(&self.topics[name].registry);
        }
        Ok(whole)
    }
}

/// The files of a directory with this extension, in order of name; None: it cannot be read.
fn sources(
    dir: &Path,
    extension: &str,
    holds: &str,
    mistakes: &mut Vec<Mistake>,
) -> Option<Vec<Source>> {
    let mut mistake = |file: &Path, what: String| {
        mistakes.push(Mistake { file: file.to_owned(), line: 1, what });
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            mistake(
                dir,
                format!("cannot read the directory: {error}. Allowed: a directory of {holds}"),
            );
            return None;
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|file| file.extension() == Some(OsStr::new(extension)) && !file.is_dir())
        .collect();
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        match fs::read_to_string(&file) {
            Ok(text) => sources.push((file, text)),
            Err(error) => {
                mistake(&file, format!("cannot read the file: {error}. Allowed: UTF-8 text"))
            }
        }
    }
    Some(sources)
}

/// Checks topic files and models, given as text. The mistakes are sorted by file and line.
pub fn check(topics: &[Source], models: &[Source]) -> Result<Catalog, Vec<Mistake>> {
    check_with(topics, models, &Additions::new())
}

fn check_with(
    topics: &[Source],
    models: &[Source],
    additions: &Additions,
) -> Result<Catalog, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let (drafts, references) = drafts(topics, additions, &mut mistakes);
    if topics.is_empty() {
        mistakes.push(Mistake {
            file: PathBuf::from("topics"),
            line: 1,
            what: "no topic at all. Allowed: at least one topics/NAME.toml".into(),
        });
    }
    let planner = Planner::default();
    let mut catalog = Catalog::default();
    for (file, text) in models {
        let mut page = Page::new(file, text);
        if let Some(model) = model(&mut page, &drafts, &references, &planner) {
            if let Some(join) = &model.join {
                let reference = join.reference.clone();
                catalog.references.insert(reference.name.clone(), reference);
            }
            catalog.models.insert(Arc::clone(&model.name), Arc::new(model));
        }
        mistakes.append(&mut page.mistakes);
    }
    mistakes.extend(catalog.models.values().flat_map(|model| value_tables(model, &catalog)));
    check_final_views(&catalog, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(sorted(mistakes));
    }
    catalog.sources = Arc::new([topics.to_vec(), models.to_vec()]);
    catalog.topics =
        drafts.into_iter().map(|(name, draft)| (name, Arc::new(draft.topic))).collect();
    Ok(catalog)
}

/// What is wrong with the names of the tables beside a model's.
fn value_tables(model: &Model, catalog: &Catalog) -> Vec<Mistake> {
    let mut wrong = Vec::new();
    let here = |what| Mistake { file: model.file.clone(), line: 1, what };
    for table in model.tables_beside() {
        if table.len() > mistake::NAME_BYTES_MAX {
            wrong.push(format!(
                "over changes a table `{table}` is kept beside the model's, whose name has {} bytes. \
                 Allowed: {}; a shorter name of the model",
                table.len(),
                mistake::NAME_BYTES_MAX
            ));
        }
        if let Some(other) = catalog.models.get(table.as_str()) {
            wrong.push(format!(
                "over changes a table `{table}` is kept beside the model's, which is that of {}. \
                 Allowed: another name for one of them",
                other.file.display()
            ));
        }
    }
    let ModelKind::Aggregate(aggregate) = &model.kind else {
        return wrong.into_iter().map(here).collect();
    };
    let keys = aggregate.keys.len() + usize::from(aggregate.window.is_some());
    for set in aggregate.sets() {
        let table = ValueSet::table(&model.name, set.column);
        if table.len() > mistake::NAME_BYTES_MAX {
            wrong.push(format!(
                "count(DISTINCT …) keeps its values in a table `{table}`, whose name has {} bytes. \
                 Allowed: {}; a shorter alias",
                table.len(),
                mistake::NAME_BYTES_MAX
            ));
        }
        let holds = |other: &Model| match &other.kind {
            // `a.b__c` and `a__b.c` would share one.
            ModelKind::Aggregate(aggregate) if other.name != model.name => {
                aggregate.sets().any(|set| ValueSet::table(&other.name, set.column) == table)
            }
            ModelKind::Aggregate(_) | ModelKind::Rows(_) => false,
        };
        if let Some(other) = catalog.models.values().find(|m| *m.name == *table || holds(m)) {
            wrong.push(format!(
                "count(DISTINCT …) keeps its values in a table `{table}`, which is that of {}. \
                 Allowed: another alias",
                other.file.display()
            ));
        }
        if keys == decompose::KEYS_MAX {
            wrong.push(format!(
                "count(DISTINCT …) with {keys} keys. Allowed: {}, since the value is one more",
                keys - 1
            ));
        }
    }
    wrong.into_iter().map(here).collect()
}

/// Beside each windowed table `NAME` stands a view `NAME_final`.
fn check_final_views(catalog: &Catalog, mistakes: &mut Vec<Mistake>) {
    for model in catalog.models.values().filter(|model| model.window().is_some()) {
        let view = model.final_view();
        let mut mistake = |what| mistakes.push(Mistake { file: model.file.clone(), line: 1, what });
        if view.len() > mistake::NAME_BYTES_MAX {
            mistake(format!(
                "the view of its final windows, `{view}`, would have {} bytes. Allowed: {}; a shorter name",
                view.len(),
                mistake::NAME_BYTES_MAX
            ));
        }
        if let Some(other) = catalog.models.get(view.as_str()) {
            mistake(format!(
                "`{view}` is the view of its final windows, and {} is a model of that name. Allowed: \
                 another name for one of them",
                other.file.display()
            ));
        }
    }
}

fn sorted(mut mistakes: Vec<Mistake>) -> Vec<Mistake> {
    mistakes.sort();
    mistakes.dedup();
    mistakes
}

type References = BTreeMap<Arc<str>, ReferenceDraft>;

fn drafts(
    topics: &[Source],
    additions: &Additions,
    mistakes: &mut Vec<Mistake>,
) -> (BTreeMap<Arc<str>, Draft>, References) {
    let mut drafts: BTreeMap<Arc<str>, Draft> = BTreeMap::new();
    let mut references = References::new();
    for (file, text) in topics {
        let mut page = Page::new(file, text);
        if let Some(reference) = reference::read(&mut page) {
            mistakes.append(&mut page.mistakes);
            references.insert(reference.reference.name.clone(), reference);
            continue;
        }
        let added = additions.get(topic_file::stem(file)).map(Vec::as_slice).unwrap_or_default();
        let draft = topic_file::read(&mut page, added);
        let rival = drafts.values().find(|d| d.topic.kafka_topic == draft.topic.kafka_topic);
        if let Some(rival) = rival.filter(|_| !draft.blind) {
            page.line(draft.line, format!(
                "the Kafka topic `{}` is declared by {} already. Allowed: one file per Kafka topic",
                draft.topic.kafka_topic,
                rival.topic.file.display()
            ));
        }
        mistakes.append(&mut page.mistakes);
        drafts.insert(Arc::clone(&draft.topic.name), draft);
    }
    (drafts, references)
}

fn model(
    page: &mut Page<'_>,
    drafts: &BTreeMap<Arc<str>, Draft>,
    references: &References,
    planner: &Planner,
) -> Option<Model> {
    let mut statement = sql::read(page)?;
    if drafts.contains_key(statement.name.as_str()) {
        page.line(
            1,
            format!(
                "`{}` is a topic's name already: FROM could mean either. Allowed: another name",
                statement.name
            ),
        );
    }
    let Some(draft) = drafts.get(statement.topic.as_str()) else {
        let names: Vec<&str> = drafts.keys().map(AsRef::as_ref).collect();
        page.line(statement.topic_line, unknown("topic", &statement.topic, &names));
        decompose::check_model_name(page, &statement);
        return None;
    };
    drift::select_all(page, &mut statement, &draft.topic);
    let mut join = None;
    if let Some(clause) = &statement.join {
        join = Some(joined(page, clause, draft, references)?);
    }
    let scalars = match Scalars::new(planner, draft, join) {
        Ok(scalars) => scalars,
        Err(error) => {
            page.line(statement.topic_line, format!("the topic's columns make no schema: {error}"));
            return None;
        }
    };
    decompose::model(page, statement, &scalars)
}

/// The reference that a model joins. None: the page has a mistake for it, or its file has one.
fn joined(
    page: &mut Page<'_>,
    clause: &sql::JoinClause,
    draft: &Draft,
    references: &References,
) -> Option<Join> {
    let line = clause.line;
    let Some(found) = references.get(clause.reference.as_str()) else {
        let names: Vec<&str> = references.keys().map(AsRef::as_ref).collect();
        page.line(
            line,
            match names.is_empty() {
                true => format!(
                    "no reference `{}`. Allowed: a file topics/{}.toml with reference = \"…\" (two topics are not \
                     joined with each other)",
                    clause.reference, clause.reference
                ),
                false => unknown("reference", &clause.reference, &names),
            },
        );
        return None;
    };
    let reference = &found.reference;
    let names = || reference.key.iter().map(|place| reference.schema.field(*place).name());
    let mut on = Vec::new();
    for key in names() {
        let Some((column, _)) = clause.on.iter().find(|(_, other)| other == key) else {
            page.line(
                line,
                format!(
                    "ON leaves out `{key}` of the primary key of `{}`: a record would have several rows. Allowed: each \
                     of {} once",
                    reference.name,
                    names().cloned().collect::<Vec<_>>().join(", ")
                ),
            );
            return None;
        };
        if draft.unsure.contains(column) || draft.blind {
            return None;
        }
        let (ours, theirs) = (draft.topic.kept(column), reference.kept(key));
        let Some(ours) = ours else {
            let columns = draft.topic.schema.fields().iter().map(|f| f.name().as_str());
            let what = format!("column of topic `{}`", draft.topic.name);
            page.line(line, unknown(&what, column, &columns.collect::<Vec<_>>()));
            return None;
        };
        if theirs.is_some_and(|theirs| theirs != ours) {
            page.line(
                line,
                format!(
                    "ON compares `{column}`, which is {ours}, with `{key}`, which is {}. Allowed: \
                     the same type for both",
                    theirs.unwrap_or(ours)
                ),
            );
            return None;
        }
        on.push(column.clone());
    }
    if clause.on.len() != on.len() {
        page.line(
            line,
            format!(
                "ON compares more than the primary key of `{}`. Allowed: {}; other conditions stand in WHERE or CASE",
                reference.name,
                names().cloned().collect::<Vec<_>>().join(", ")
            ),
        );
        return None;
    }
    if !found.unsure.is_empty() {
        return None;
    }
    Some(Join { reference: reference.clone(), on })
}
