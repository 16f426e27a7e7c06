//! Models over a topic of changes: what is kept of the source's rows, so that a table follows them.
//!
//! Such a model is a SELECT over the source's table as it is now (or was), and not over the changes:
//! each change makes one row of the source another, and the model's table follows.
//!
//! Owns: which models can be kept so, with the reasons why others cannot; the options `deletes` and
//! `history`. Does not own: what becomes of a change (`compute::changes`).
//!
//! An aggregate takes back what a row had added before it changed. So it keeps counts and sums of
//! exact numbers, and beside each sum how many terms it has: a sum of none is NULL.

use super::{
    Aggregate, ChangeSpec, Column, Images, Merge, Model, ModelKind, Order, Part, PartColumn,
    PartFunction, PgType, Role, Rows, Snapshots,
    calls::{self, has_window},
    decompose::{Options, selected},
    grouped,
    mistake::{Page, unknown},
    scalar::Scalars,
    sql::{Setting, Statement},
};
use arrow::datatypes::DataType;
use datafusion_expr::Expr;
use datafusion_sql::sqlparser::ast::Expr as Ast;
use std::{collections::BTreeSet, fmt::Write};

/// How many rows of the source are in a group; without any, the group is not there.
pub const GROUP_ROWS: &str = "_rows";
pub const DELETED_AT: &str = "_deleted_at";
pub const VALID_FROM: &str = "valid_from";
pub const VALID_TO: &str = "valid_to";

/// How a model over changes keeps the source's rows.
#[derive(Debug, Clone)]
pub struct Folding {
    /// What is stored of each row: its key, then the other columns that the model reads.
    pub columns: Vec<(String, PgType)>,
    /// How many of them are the key.
    pub keys: usize,
    pub order: Order,
    pub images: Images,
    pub keeps: Keeps,
    pub snapshots: Snapshots,
    pub max_cut_deletes: Option<u32>,
}

/// What the model's table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeps {
    /// The rows that the source has.
    Rows,
    /// Those that it had as well, with the time of their deletion.
    Deleted,
    /// Every version of every row, with the time from and to which it held.
    Versions,
    Groups {
        /// Each sum, and the column that counts its terms.
        sums: Vec<(String, String)>,
    },
}

impl Folding {
    /// Name of the table of the source's rows, beside the model's.
    pub fn source_table(model: &str) -> String {
        format!("{model}__source")
    }

    /// Name of the table of its truncates.
    pub fn truncates_table(model: &str) -> String {
        format!("{model}__truncates")
    }

    /// Name of the table of its snapshots.
    pub fn snapshots_table(model: &str) -> String {
        format!("{model}__snapshots")
    }

    /// Name of the table of changes that wait for a snapshot's end.
    pub fn staged_table(model: &str) -> String {
        format!("{model}__staged")
    }

    /// None: there are mistakes on the page.
    pub(super) fn new(
        page: &mut Page<'_>,
        statement: &Statement,
        scalars: &Scalars<'_>,
        (kind, filter): (&ModelKind, Option<&Expr>),
        keeps: Keeps,
    ) -> Option<Self> {
        let topic = scalars.topic();
        let spec = topic.followed()?;
        let key: Vec<&str> = spec.key.iter().map(|i| topic.columns[*i].name.as_str()).collect();
        let mut read: BTreeSet<String> = BTreeSet::new();
        let mut note = |expr: &Expr| {
            read.extend(expr.column_refs().iter().map(|column| column.name.clone()));
        };
        filter.iter().for_each(|expr| note(expr));
        match kind {
            ModelKind::Rows(rows) => rows.exprs.iter().for_each(note),
            ModelKind::Aggregate(aggregate) => {
                aggregate.keys.iter().for_each(|key| note(&key.expr));
                let parts = aggregate.parts.iter();
                parts.for_each(|part| part.args.iter().chain(&part.filter).for_each(&mut note));
            }
        }
        if let Some(own) = read.iter().find(|name| name.starts_with('_')) {
            page.line(
                statement.line,
                format!(
                    "`{own}` is of a change, and this table follows the source's rows. Allowed: the columns that \
                     {} declares",
                    topic.file.display()
                ),
            );
            return None;
        }
        let kept = |name: &str| topic.kept(name).map(|pg| (name.to_owned(), pg));
        let others = topic.columns.iter().map(|c| c.name.as_str());
        let others = others.filter(|name| read.contains(*name) && !key.contains(name));
        let columns = key.iter().copied().chain(others).filter_map(kept).collect();
        Some(Self {
            columns,
            keys: key.len(),
            order: spec.order,
            images: spec.images,
            keeps,
            snapshots: spec.snapshots,
            max_cut_deletes: spec.max_cut_deletes,
        })
    }

    /// Whatever decides the table's rows, as text; `sorted` where columns may stand in any order.
    pub(super) fn declaration(&self, sorted: bool) -> String {
        let (key, others) = self.columns.split_at(self.keys);
        let mut others = others.to_vec();
        if sorted {
            others.sort_by(|a, b| a.0.cmp(&b.0));
        }
        let mut out = String::new();
        let _ = writeln!(
            out,
            "of changes by {key:?} with {others:?}, {:?} images, order {:?}, keeping {:?}",
            self.images, self.order, self.keeps
        );
        out
    }
}

/// The kind of the model and the columns of its table. None: there are mistakes on the page.
pub(super) fn model(
    page: &mut Page<'_>,
    statement: &Statement,
    scalars: &Scalars<'_>,
    spec: &ChangeSpec,
) -> Option<(ModelKind, Vec<Column>, Keeps)> {
    let before = page.mistakes.len();
    if spec.key.is_empty() {
        page.line(
            statement.topic_line,
            format!(
                "the changes of `{}` have no key, so no row is known by which it changes. Allowed: a topic with \
                 changes.key; its lake, which keeps every change",
                statement.topic
            ),
        );
    }
    if let Some(join) = &statement.join {
        page.line(
            join.line,
            "LEFT JOIN on a topic of changes: what a row was looked up in may have changed when the row changes, and \
             could not be taken back. Allowed: the join in the query that reads the table",
        );
    }
    if let Some(item) = statement.items.iter().find(|item| has_window(&item.expr)) {
        page.line(
            item.line,
            "a window over changes: its rows change and go, which no window's end ends. Allowed: GROUP BY a column, \
             such as date_trunc('day', made_at); or append_only = true in [changes], where rows are only added",
        );
    }
    if page.mistakes.len() > before {
        return None;
    }
    if statement.group_by.is_some() {
        return groups(page, statement, scalars);
    }
    if let Some(call) =
        statement.items.iter().find_map(|item| calls::aggregates(&item.expr, item.line).pop())
    {
        page.line(
            call.line,
            "an aggregate without GROUP BY would be a table of one row without a key. Allowed: GROUP BY a column; \
             for one row over everything, SELECT 'all' AS scope, … GROUP BY scope",
        );
        return None;
    }
    rows(page, statement, scalars, spec)
}

fn rows(
    page: &mut Page<'_>,
    statement: &Statement,
    scalars: &Scalars<'_>,
    spec: &ChangeSpec,
) -> Option<(ModelKind, Vec<Column>, Keeps)> {
    let before = page.mistakes.len();
    let mut options = Options::new(&statement.options);
    let keeps = keeps(page, options.take("deletes"), options.take("history"));
    options.finish(page, &["deletes", "history"], "a model of rows over changes");
    let (exprs, mut columns) = selected(page, statement, scalars);
    let mut primary_key = Vec::new();
    for place in &spec.key {
        let key = &scalars.topic().columns[*place].name;
        let is_key = |expr: &Ast| matches!(expr, Ast::Identifier(ident) if ident.value == *key);
        let item = statement.items.iter().find(|item| is_key(&item.expr));
        let name = item.and_then(|item| item.name());
        let Some(name) = name else {
            page.line(
                statement.line,
                format!(
                    "`{key}` of the source's key is not in SELECT. Allowed: {key} among the columns"
                ),
            );
            continue;
        };
        primary_key.extend(columns.iter().position(|column| column.name == name));
    }
    let keeps = keeps?;
    if keeps == Keeps::Versions && scalars.topic().batched {
        page.line(
            statement.line,
            "a version is known by the record that made it, and `batched` lets a record be several rows. Allowed: a \
             topic without `batched`, or a model without history"
                .to_owned(),
        );
    }
    let mut more = vec![
        ("_event_time", PgType::Timestamptz),
        ("_source_position", PgType::Text),
        ("_partition", PgType::Integer),
        ("_offset", PgType::BigInt),
    ];
    match keeps {
        Keeps::Versions => {
            // A version is known by the record that made it.
            primary_key.clear();
            more[0].0 = VALID_FROM;
            more.insert(1, (VALID_TO, PgType::Timestamptz));
            for item in &statement.items {
                if item.name().is_some_and(|name| [VALID_FROM, VALID_TO].contains(&name)) {
                    page.line(
                        item.line,
                        format!(
                            "history = 'validity' makes the columns {VALID_FROM} and {VALID_TO} itself. Allowed: \
                             another alias"
                        ),
                    );
                }
            }
        }
        Keeps::Deleted => more.insert(0, (DELETED_AT, PgType::Timestamptz)),
        Keeps::Rows | Keeps::Groups { .. } => {}
    }
    if page.mistakes.len() > before {
        return None;
    }
    for place in &primary_key {
        columns[*place].role = Role::Key;
    }
    let more = more.into_iter();
    columns.extend(more.map(|(name, pg)| Column { name: name.into(), pg, role: Role::Position }));
    Some((ModelKind::Rows(Rows { exprs, primary_key }), columns, keeps))
}

fn keeps(
    page: &mut Page<'_>,
    deletes: Option<&Setting>,
    history: Option<&Setting>,
) -> Option<Keeps> {
    let mut told = |setting: &Setting, known: &str| {
        let wrong = setting.value != known;
        if wrong {
            let what = format!("kind of {}", setting.key);
            page.line(setting.line, unknown(&what, &setting.value, &[known]));
        }
        wrong
    };
    let wrong = deletes.is_some_and(|setting| told(setting, "soft"))
        | history.is_some_and(|setting| told(setting, "validity"));
    match (deletes, history) {
        _ if wrong => None,
        (Some(deletes), Some(_)) => {
            page.line(
                deletes.line,
                "deletes = 'soft' with history: a deleted row's last version has its valid_to anyway. Allowed: one \
                 of both",
            );
            None
        }
        (Some(_), None) => Some(Keeps::Deleted),
        (None, Some(_)) => Some(Keeps::Versions),
        (None, None) => Some(Keeps::Rows),
    }
}

fn groups(
    page: &mut Page<'_>,
    statement: &Statement,
    scalars: &Scalars<'_>,
) -> Option<(ModelKind, Vec<Column>, Keeps)> {
    let before = page.mistakes.len();
    for item in &statement.items {
        for call in calls::aggregates(&item.expr, item.line) {
            if let Some(why) = unfit(call.aggregate) {
                page.line(call.line, why);
            }
        }
    }
    let (kind, mut columns) = grouped::aggregate(page, statement, scalars)?;
    let ModelKind::Aggregate(mut aggregate) = kind else { return None };
    let mut sums = Vec::new();
    let mut more = vec![count(GROUP_ROWS.to_owned(), Vec::new(), None)];
    for part in aggregate.parts.iter().filter(|part| part.function == PartFunction::Sum) {
        if part.columns[0].arrow == DataType::Float64 {
            page.line(
                statement.line,
                format!(
                    "`{}` adds doubles, and what was added to a double is not taken back exactly. Allowed: a cast \
                     of what is added to numeric(p,s)",
                    part.name()
                ),
            );
        }
        let terms = format!("_{}_terms", part.name().trim_start_matches('_'));
        sums.push((part.name().to_owned(), terms.clone()));
        more.push(count(terms, part.args.clone(), part.filter.clone()));
    }
    for part in &more {
        let PartColumn { name, pg, merge, .. } = &part.columns[0];
        columns.push(Column { name: name.clone(), pg: *pg, role: Role::Part(merge.clone()) });
    }
    aggregate.parts.extend(more);
    if page.mistakes.len() > before {
        return None;
    }
    let Aggregate { window, keys, parts } = aggregate;
    let kind = ModelKind::Aggregate(Aggregate { window, keys, parts });
    Some((kind, columns, Keeps::Groups { sums }))
}

fn count(name: String, args: Vec<Expr>, filter: Option<Expr>) -> Part {
    let (pg, arrow, merge) = (PgType::BigInt, DataType::Int64, Merge::Add);
    let columns = vec![PartColumn { name, pg, arrow, merge }];
    Part { function: PartFunction::Count, args, filter, columns }
}

/// Why an aggregate over changes cannot be kept.
fn unfit(aggregate: calls::Aggregate) -> Option<String> {
    use calls::Aggregate as A;
    let called = aggregate.as_str();
    let why = match aggregate {
        A::Count | A::Sum | A::Avg => return None,
        A::Min | A::Max | A::BoolAnd | A::BoolOr | A::ArgMin | A::ArgMax | A::First | A::Last => {
            "when its row changes or goes, the next one is to be found among all the others"
        }
        A::CountDistinct | A::ApproxDistinct | A::ApproxPercentile => {
            "a value that one row gives up may still be that of others, which are not counted one by one"
        }
        A::Spread(_) => "it is kept from counts and sums that are not taken back",
        A::Delta => "a row that changes is no counter that grows",
    };
    Some(format!(
        "{called}(…) over changes: {why}. Allowed: count, sum, avg; a model of rows without GROUP BY, and {called}(…) \
         in the query that reads it"
    ))
}

impl Model {
    /// Why a record that it refused is not given to it later.
    pub fn takes_no_retry(&self) -> Option<&'static str> {
        self.folding.as_ref().map(|_| {
            "follows changes in their order, and what came after this one stands in its table: a row is right again \
             when it changes next, or when the table is rebuilt"
        })
    }

    /// What the tables beside that of a model over changes would be called.
    pub(super) fn tables_beside(&self) -> Vec<String> {
        let names = [
            Folding::source_table(&self.name),
            Folding::truncates_table(&self.name),
            Folding::snapshots_table(&self.name),
            Folding::staged_table(&self.name),
        ];
        if self.folding.is_some() { names.to_vec() } else { Vec::new() }
    }
}
