//! Scalar expressions: DataFusion's meaning, our limits on it.
//!
//! Owns: what of an expression is allowed, its type. Does not own: reading it (`planner`), windows
//! and aggregates (see `calls`).
//!
//! An expression that leaves reads columns of the topic alone and gives the same on every replay.
//!
//! One record must not stop a model for good, so what PostgreSQL would refuse with an error is NULL
//! here: a cast of a value that does not fit, a division or remainder by zero. The same rule as in
//! `generated`. A literal that does not fit is a mistake, told before anything runs. What can still
//! fail on a record: functions that parse text (`to_timestamp`), and numeric beyond 38 digits.
//! A whole number that does not fit its width fails on that record (see `compute`); sums of them
//! have room for all (see `grouped`).

use super::{
    Join, PgType, Topic,
    calls::{each, has_aggregate, has_window, refused},
    mistake::{Page, unknown},
    planner::Planner,
    sql::line_of,
    surrogate_key,
    topic_file::Draft,
};
use arrow::{
    datatypes::{DataType, Field, Schema},
    record_batch::RecordBatch,
};
use datafusion_common::{
    DFSchema, DataFusionError,
    tree_node::{TreeNode, TreeNodeRecursion},
};
use datafusion_expr::{Expr, Volatility, cast};
use datafusion_sql::sqlparser::ast::Expr as Ast;
use std::{collections::BTreeSet, sync::Arc};

/// An expression over a topic's columns, with its type.
pub(super) struct Scalar {
    expr: Expr,
    arrow: DataType,
    pub pg: PgType,
}

impl Scalar {
    /// The expression, giving exactly this type.
    pub fn into(self, wanted: DataType) -> Expr {
        match self.arrow == wanted {
            true => self.expr,
            false => cast(self.expr, wanted),
        }
    }

    /// The expression, giving exactly the type that carries `pg`.
    pub fn exact(self) -> Expr {
        let wanted = self.pg.arrow();
        self.into(wanted)
    }
}

/// Reads the expressions of the models on one topic.
pub(super) struct Scalars<'t> {
    planner: &'t Planner,
    schema: DFSchema,
    draft: &'t Draft,
    join: Option<Join>,
}

impl<'t> Scalars<'t> {
    pub fn new(
        planner: &'t Planner,
        draft: &'t Draft,
        join: Option<Join>,
    ) -> Result<Self, DataFusionError> {
        let own = draft.topic.schema.fields().iter().map(|field| Field::clone(field));
        let fields: Vec<Field> = own.chain(join.iter().flat_map(Join::fields)).collect();
        let schema = DFSchema::try_from(Schema::new(fields))?;
        Ok(Self { planner, schema, draft, join })
    }

    pub fn join(&self) -> Option<&Join> {
        self.join.as_ref()
    }

    /// The type of a column, of the topic or of the reference.
    fn kept(&self, name: &str) -> Option<PgType> {
        match (&self.join, name.split_once('.')) {
            (Some(join), Some((_, column))) => join.reference.kept(column),
            _ => self.topic().kept(name),
        }
    }

    pub fn topic(&self) -> &'t Topic {
        &self.draft.topic
    }

    /// Whether the topic has a column of this name, as far as its file tells.
    pub fn has_column(&self, name: &str) -> bool {
        self.schema.has_column_with_unqualified_name(name) || self.draft.unsure.contains(name)
    }

    /// Reads one expression. Mistakes go on the page; None: there were some, here or in the topic.
    /// `place` says where the expression stands, such as "WHERE".
    pub fn read(&self, page: &mut Page<'_>, ast: &Ast, line: usize, place: &str) -> Option<Scalar> {
        let line = line_of(ast, line);
        let before = page.mistakes.len();
        for (line, what) in refused(ast, line) {
            page.line(line, what);
        }
        if has_aggregate(ast) {
            page.line(
                line,
                format!("an aggregate inside {place}. Allowed: columns and scalar functions there"),
            );
        }
        if has_window(ast) {
            page.line(
                line,
                format!("a window inside {place}. Allowed: as a column of SELECT and in GROUP BY"),
            );
        }
        let sure = self.check_columns(page, ast, line);
        if page.mistakes.len() > before || !sure {
            return None;
        }
        match self.typed(ast) {
            Ok(scalar) => Some(scalar),
            Err(what) => {
                page.line(line, what);
                None
            }
        }
    }

    /// Every column named is one of the topic's. False: some cannot be judged, for the topic's own
    /// file has a mistake there.
    fn check_columns(&self, page: &mut Page<'_>, ast: &Ast, line: usize) -> bool {
        let mut sure = !self.draft.blind;
        let mut told = BTreeSet::new();
        each(ast, &mut |e| {
            let Ast::Identifier(ident) = e else { return };
            let name = ident.value.as_str();
            if self.draft.unsure.contains(name) {
                sure = false;
            } else if !self.draft.blind
                && !self.schema.has_column_with_unqualified_name(name)
                && told.insert(name.to_owned())
            {
                page.line(line_of(e, line), self.unknown_column(name));
            }
        });
        sure
    }

    pub fn unknown_column(&self, name: &str) -> String {
        let topic = self.topic();
        if let (Some(join), Some((reference, column))) = (&self.join, name.split_once('.')) {
            let columns = join.reference.schema.fields().iter().map(|f| f.name().as_str());
            let what = format!("column of reference `{reference}`");
            return unknown(&what, column, &columns.collect::<Vec<_>>());
        }
        if topic.columns.iter().any(|c| c.name == name) {
            return format!(
                "column `{name}` of topic `{}` has pii = \"drop\": it is never read, so no model can use it. Allowed: \
                 another column, or pii = \"hash\"",
                topic.name
            );
        }
        let names: Vec<&str> = topic.schema.fields().iter().map(|f| f.name().as_str()).collect();
        unknown(&format!("column of topic `{}`", topic.name), name, &names)
    }

    fn typed(&self, ast: &Ast) -> Result<Scalar, String> {
        let expr = self.planner.read(ast, &self.schema).map_err(|e| reason(ast, &e))?;
        only_deterministic(&expr)?;
        if surrogate_key::is_of_jsonb(&expr, |name| self.kept(name)) {
            return Err(format!(
                "`{ast}`: a jsonb is kept as its producer wrote it, so equal values would have different keys. Allowed: \
                 columns of its members"
            ));
        }
        let column = match &expr {
            Expr::Column(column) => Some(column.name().to_owned()),
            _ => None,
        };
        let expr = self.planner.simplify(expr, &self.schema).map_err(|e| reason(ast, &e))?;
        let physical =
            self.planner.bind(expr.clone(), &self.schema).map_err(|e| reason(ast, &e))?;
        let arrow = physical.data_type(self.schema.as_arrow()).map_err(|e| reason(ast, &e))?;
        // Run over no record at all, it still meets its literals: a cast, a regular expression or
        // a unit that is wrong fails now.
        let nothing = RecordBatch::new_empty(Arc::clone(self.schema.inner()));
        physical.evaluate(&nothing).map_err(|e| reason(ast, &e))?;
        let pg = match column {
            // A bare column keeps what it was declared as: uuid and jsonb travel as text.
            Some(column) => self.kept(&column),
            None => PgType::holding(&arrow),
        };
        let pg = pg.ok_or_else(|| {
            format!("`{ast}` is of the type {arrow}, which no column of PostgreSQL's holds here. Allowed: a cast to a \
                     type such as text, numeric(p,s) or timestamptz")
        })?;
        Ok(Scalar { expr, arrow, pg })
    }
}

/// The same records give the same rows, whenever they are read.
fn only_deterministic(expr: &Expr) -> Result<(), String> {
    let mut wrong = None;
    let _ = expr.apply(|e| {
        match e {
            Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                wrong = Some(format!(
                    "{}() gives another result on every replay. Allowed: functions of the record alone, such as of \
                     `_timestamp` (when Kafka took the record)",
                    call.func.name()
                ));
            }
            Expr::Placeholder(placeholder) => {
                wrong = Some(format!("the placeholder {} has no value. Allowed: a literal", placeholder.id));
            }
            _ => {}
        }
        Ok(match wrong {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    });
    wrong.map_or(Ok(()), Err)
}

/// DataFusion's sentence, without its headings and its list of candidates.
fn reason(ast: &Ast, error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let text = text.split("Candidate functions").next().unwrap_or_default();
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for heading in [
        "Context: ",
        "Error during planning: ",
        "Schema error: ",
        "This feature is not implemented: ",
        "Execution error: ",
        "SQL error: ",
        "type_coercion caused by ",
        "Function 'surrogate_key' user-defined coercion failed with: ",
        "Error during planning: ",
    ] {
        line = line.strip_prefix(heading).unwrap_or(&line).to_owned();
    }
    format!("`{ast}`: {line}. Allowed: scalar expressions as DataFusion reads them")
        .replace("..", ".")
        .replace("?.", "?")
}
