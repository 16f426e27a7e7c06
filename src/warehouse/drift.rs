//! What is known of the tables of topics' sources, and what was added to topics for them.
//!
//! Owns, as far as they are rows; the transaction that widens a topic. Does not own: the
//! judgement (`catalog::drift`), when it is asked for (`pipeline::drift`).
//!
//! SUBTLE: the marks table is locked as a whole before anything is recorded. So no commit, take or new
//! mark is between the marks that the addition begins at and the addition; and each mark gets another
//! epoch. What a process commits that does not know of the addition is below where it begins.

use super::{
    Warehouse,
    postgres::{Parameter, Row, Session},
    schema, widening,
};
use crate::{
    catalog::{Addition, Additions, Model, PgType, Upstream},
    error::{Error, Result},
    record::{Offset, Partition},
};
use std::{collections::BTreeMap, sync::Arc};

/// A table of a topic's source that was met.
#[derive(Debug, Clone)]
pub struct VersionRow {
    pub topic: Arc<str>,
    pub version: String,
    pub upstream: Upstream,
    pub verdict: Verdict,
    /// How it differed from what was declared then.
    pub diff: String,
    pub partition: Partition,
    pub offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Known,
    /// It stops the topic.
    Refused,
    /// A person lets it pass.
    Accepted,
}

/// The first record of a table, in a partition.
#[derive(Debug, Clone)]
pub struct Sighting {
    pub topic: Arc<str>,
    pub upstream: Arc<Upstream>,
    pub partition: Partition,
    pub offset: i64,
    pub diff: String,
}

/// A topic that gets wider: what is added to it, and its models before and after.
#[derive(Debug, Clone)]
pub struct Wider {
    /// How many additions it has.
    pub after: usize,
    pub additions: Vec<Addition>,
    pub models: Vec<(Arc<Model>, Arc<Model>)>,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Refused => "refused",
            Self::Accepted => "accepted",
        }
    }
}

impl Warehouse {
    /// Of one topic, or of all.
    pub async fn upstream_versions(&self, topic: Option<&str>) -> Result<Vec<VersionRow>> {
        let sql = include_str!("../../sql/warehouse/read_upstream_versions.sql");
        let rows = self.read("read the tables of sources", sql, &[&topic]).await?;
        rows.iter().map(version_row).collect()
    }

    /// The table that each partition's records came of last, and from which offset on.
    pub async fn upstream_places(
        &self,
        topic: &str,
    ) -> Result<BTreeMap<Partition, (i64, Upstream)>> {
        let sql = include_str!("../../sql/warehouse/read_upstream_places.sql");
        let rows = self.read("read the tables of partitions", sql, &[&topic]).await?;
        let place = |row: &Row| Ok((Partition(row.get(0)), (row.get(1), upstream(row.get(2))?)));
        rows.iter().map(place).collect()
    }

    /// What was added to topics; of one, or of all.
    pub async fn additions(&self, topic: Option<&str>) -> Result<Additions> {
        let sql = include_str!("../../sql/warehouse/read_additions.sql");
        let rows = self.read("read what was added to topics", sql, &[&topic]).await?;
        let mut additions = Additions::new();
        for row in &rows {
            additions.entry(row.get::<_, &str>(0).into()).or_default().push(addition(row)?);
        }
        Ok(additions)
    }

    /// Notes a table that was met, and that the partition's records come of it.
    pub async fn meet(&self, sighting: &Sighting, verdict: Verdict) -> Result<()> {
        let doing = format!("note a table of the source of {}", sighting.topic);
        self.within(&doing, async {
            let session = self.begin(&doing).await?;
            note(&session, &doing, sighting, verdict).await?;
            session.commit(&doing).await
        })
        .await
    }

    /// A person lets pass what stands in the way; gives how each differs.
    pub async fn accept_drift(&self, topic: &str, by: &str) -> Result<Vec<String>> {
        let doing = format!("accept the drift of {topic}");
        self.within(&doing, async {
            let session = self.begin(&doing).await?;
            let sql = include_str!("../../sql/warehouse/accept_upstream_versions.sql");
            let rows = session.query(&doing, sql, &[&topic, &by]).await?;
            session.commit(&doing).await?;
            Ok(rows.iter().map(|row| row.get(1)).collect())
        })
        .await
    }

    /// Records the additions, alters the models' tables and fences whoever holds the topic, or does
    /// nothing: then false, for another process has added something meanwhile.
    ///
    /// # Errors
    /// `Config`: a model cannot follow. `Unknown`: COMMIT was not answered; what is recorded tells.
    pub async fn widen(&self, sighting: &Sighting, wider: &Wider) -> Result<bool> {
        let topic: &str = &sighting.topic;
        let doing = format!("widen {topic}");
        let mut statements = Vec::new();
        for (old, new) in &wider.models {
            statements.extend(widening::alterations(old, new).map_err(Error::config)?);
        }
        self.within(&doing, async {
            let session = self.begin(&doing).await?;
            schema::lock(&session, &doing).await?;
            session.batch(&doing, include_str!("../../sql/warehouse/lock_all_marks.sql")).await?;
            if added(&session, &doing, topic).await?.0 != wider.after as i64 {
                session.roll_back(&doing).await?;
                return Ok(false);
            }
            note(&session, &doing, sighting, Verdict::Known).await?;
            let version = sighting.upstream.id();
            for (number, addition) in (wider.after as i32 + 1..).zip(&wider.additions) {
                let (pg, was) = (addition.pg.to_string(), addition.from.map(|pg| pg.to_string()));
                let sql = include_str!("../../sql/warehouse/insert_addition.sql");
                let values: [Parameter; 9] = [
                    &topic,
                    &number,
                    &addition.column,
                    &addition.field,
                    &pg,
                    &was,
                    &version,
                    &sighting.partition.0,
                    &sighting.offset,
                ];
                session.execute(&doing, sql, &values).await?;
                let sql = include_str!("../../sql/warehouse/start_addition.sql");
                session.execute(&doing, sql, &[&topic, &number]).await?;
            }
            for statement in &statements {
                session.batch(&doing, statement).await?;
            }
            let sql = include_str!("../../sql/warehouse/fence_topic.sql");
            session.execute(&doing, sql, &[&topic]).await?;
            session.commit(&doing).await?;
            Ok(true)
        })
        .await
    }
}

async fn note(session: &Session, doing: &str, sighting: &Sighting, verdict: Verdict) -> Result<()> {
    let Sighting { topic, upstream, partition, offset, diff } = sighting;
    let (topic, version): (&str, _) = (topic, upstream.id());
    let sql = include_str!("../../sql/warehouse/insert_upstream_version.sql");
    let (columns, verdict_text) = (upstream.to_json(), verdict.as_str());
    let values: [Parameter; 7] =
        [&topic, &version, &columns, &verdict_text, diff, &partition.0, offset];
    session.execute(doing, sql, &values).await?;
    // What is refused is not passed: the next start compares it with the same table.
    if verdict != Verdict::Refused {
        let sql = include_str!("../../sql/warehouse/move_upstream_place.sql");
        session.execute(doing, sql, &[&topic, &partition.0, &version, offset]).await?;
    }
    Ok(())
}

/// how many additions there are, and a sum of where they begin.
pub(super) async fn added(session: &Session, doing: &str, topic: &str) -> Result<(i64, i64)> {
    let sql = include_str!("../../sql/warehouse/count_additions.sql");
    let rows = session.query(doing, sql, &[&topic]).await?;
    Ok((rows[0].get(0), rows[0].get(1)))
}

fn version_row(row: &Row) -> Result<VersionRow> {
    let verdict = match row.get::<_, &str>(3) {
        "refused" => Verdict::Refused,
        "accepted" => Verdict::Accepted,
        _ => Verdict::Known,
    };
    Ok(VersionRow {
        topic: row.get::<_, &str>(0).into(),
        version: row.get(1),
        upstream: upstream(row.get(2))?,
        verdict,
        diff: row.get(4),
        partition: Partition(row.get(5)),
        offset: row.get(6),
    })
}

fn upstream(text: &str) -> Result<Upstream> {
    let unknown =
        || Error::halt(format!("a table of a source that cannot be read, columns={text}"));
    Upstream::from_json(text).ok_or_else(unknown)
}

fn addition(row: &Row) -> Result<Addition> {
    let pg = |text: &str| PgType::parse(text).map_err(Error::halt);
    let (partitions, since): (Vec<i32>, Vec<i64>) = (row.get(6), row.get(7));
    Ok(Addition {
        column: row.get(2),
        field: row.get(3),
        pg: pg(row.get(4))?,
        from: row.get::<_, Option<&str>>(5).map(pg).transpose()?,
        since: partitions.into_iter().map(Partition).zip(since.into_iter().map(Offset)).collect(),
    })
}
