//! The SQL of a model, taken apart: one `CREATE MATERIALIZED VIEW … AS SELECT … FROM topic`.
//!
//! Owns: the shape of the statement, and a reason for every clause that is refused. Does not own:
//! what its expressions mean (see `scalar` and `decompose`).
//!
//! What leaves is normal: names lower-case, no qualifiers; so equal expressions print equally.

use super::mistake::Page;
use datafusion_sql::sqlparser::{
    ast::{
        BinaryOperator, CreateTableOptions, CreateView, Expr, GroupByExpr, Ident, JoinConstraint,
        JoinOperator, LimitClause, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr,
        Spanned, SqlOption, Statement as Sql, TableFactor, Value, visit_expressions_mut,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
    tokenizer::Span,
};
use std::ops::ControlFlow;

/// A statement of the only shape there is.
pub(super) struct Statement {
    /// Empty where the page has a mistake for it.
    pub name: String,
    pub options: Vec<Setting>,
    pub topic: String,
    pub topic_line: usize,
    pub join: Option<JoinClause>,
    pub filter: Option<Expr>,
    /// None: there is no GROUP BY.
    pub group_by: Option<Vec<Expr>>,
    /// Empty where the page has a mistake for it.
    pub items: Vec<Item>,
    /// Where `*` stands among the items, and its line.
    pub star: Option<(usize, usize)>,
    /// Of SELECT.
    pub line: usize,
}

/// `LEFT JOIN reference ON topic_column = reference.column AND …`.
pub(super) struct JoinClause {
    pub reference: String,
    /// Pairs that are to be equal: of the topic, of the reference.
    pub on: Vec<(String, String)>,
    pub line: usize,
}

/// One of `WITH (key = 'value', …)`.
pub(super) struct Setting {
    pub key: String,
    pub value: String,
    pub line: usize,
}

/// One of what SELECT lists.
pub(super) struct Item {
    pub expr: Expr,
    pub alias: Option<String>,
    pub line: usize,
}

impl Item {
    /// Its alias, or the column that it is; None for an expression without a name.
    pub fn name(&self) -> Option<&str> {
        match (&self.alias, &self.expr) {
            (Some(alias), _) => Some(alias),
            // A column of a reference is `reference.column` everywhere but here.
            (None, Expr::Identifier(ident)) => ident.value.rsplit('.').next(),
            _ => None,
        }
    }
}

/// The line on which an expression begins; the parser does not know it for all of them.
pub(super) fn line_of(what: &impl Spanned, otherwise: usize) -> usize {
    line_of_span(what.span(), otherwise)
}

fn line_of_span(span: Span, otherwise: usize) -> usize {
    match span.start.line {
        0 => otherwise,
        line => line as usize,
    }
}

const SHAPE: &str =
    "CREATE MATERIALIZED VIEW name [WITH (option = 'value', …)] AS SELECT … FROM topic";

/// Reads one model; None where the mistakes on the page leave nothing to go on with.
pub(super) fn read(page: &mut Page<'_>) -> Option<Statement> {
    let mut statements = match Parser::parse_sql(&PostgreSqlDialect {}, page.text) {
        Ok(statements) => statements,
        Err(error) => {
            let (line, what) = syntax_error(page, &error.to_string());
            page.line(line, what);
            return None;
        }
    };
    if statements.len() > 1 {
        let line = line_of(&statements[1], 1);
        page.line(line, "a second statement in the file. Allowed: one model per file");
    }
    if statements.is_empty() {
        page.line(1, format!("no statement in the file. Allowed: {SHAPE}"));
        return None;
    }
    match statements.swap_remove(0) {
        Sql::CreateView(view) => read_view(page, view),
        other => {
            let line = line_of(&other, 1);
            page.line(line, format!("not a materialized view. Allowed: {SHAPE}"));
            None
        }
    }
}

/// `… at Line: 3, Column: 5` goes into the place; the end of the text has none.
fn syntax_error(page: &Page<'_>, text: &str) -> (usize, String) {
    let text = text.strip_prefix("sql parser error: ").unwrap_or(text);
    let (what, place) = match text.rsplit_once(" at Line: ") {
        Some((what, place)) => (what, place.split(',').next().and_then(|n| n.trim().parse().ok())),
        None => (text, None),
    };
    let line = place.unwrap_or_else(|| page.last_line());
    (line, format!("not SQL: {what}. Allowed: {SHAPE}"))
}

fn read_view(page: &mut Page<'_>, view: CreateView) -> Option<Statement> {
    let line = line_of(&view.name, 1);
    if !view.materialized {
        page.line(line, format!("a plain view keeps nothing. Allowed: {SHAPE}"));
    }
    if view.or_replace || view.or_alter || view.if_not_exists || view.temporary {
        page.line(
            line,
            format!(
                "OR REPLACE, IF NOT EXISTS and TEMPORARY mean nothing here: the \
                 file is the definition. Allowed: {SHAPE}"
            ),
        );
    }
    if !view.columns.is_empty() {
        page.line(
            line,
            "a list of columns after the view's name. Allowed: aliases in SELECT (`… AS name`)",
        );
    }
    let name = single_name(&view.name).unwrap_or_else(|| {
        page.line(line, format!("the name `{}` has a schema. Allowed: a bare name", view.name));
        String::new()
    });
    let options = match view.options {
        CreateTableOptions::With(options) => settings(page, options, line),
        CreateTableOptions::None => Vec::new(),
        CreateTableOptions::Options(_)
        | CreateTableOptions::Plain(_)
        | CreateTableOptions::TableProperties(_) => {
            page.line(line, "options outside WITH. Allowed: WITH (option = 'value', …)");
            Vec::new()
        }
    };
    let select = select_of(page, *view.query, line)?;
    let line = line_of_span(select.select_token.0.span, line);
    refuse_clauses(page, &select, line);
    let (topic, alias, topic_line) = topic_of(page, &select, line)?;
    let joined = join_of(page, &select, line);

    if let GroupByExpr::All(_) = &select.group_by {
        page.line(line, "GROUP BY ALL is not supported. Allowed: a list of keys");
        return None;
    }
    let names = joined.as_ref().map(|join| (join.reference.as_str(), join.alias.as_str()));
    let mut normal = Normal { topic: &topic, alias: alias.as_deref(), joined: names, page, line };
    let join = joined.as_ref().and_then(|join| join.read(&mut normal));
    if joined.is_some() && join.is_none() {
        return None;
    }
    let mut filter = select.selection;
    if let Some(filter) = &mut filter {
        normal.apply(filter);
    }
    let group_by = match select.group_by {
        GroupByExpr::Expressions(mut keys, modifiers) => {
            if !modifiers.is_empty() {
                normal.page.line(line, "GROUP BY with a modifier. Allowed: a plain list of keys");
            }
            keys.iter_mut().for_each(|key| normal.apply(key));
            (!keys.is_empty()).then_some(keys)
        }
        GroupByExpr::All(_) => None,
    };
    let (mut items, mut star) = (Vec::new(), None);
    for item in select.projection {
        let item_line = line_of(&item, line);
        match item {
            SelectItem::UnnamedExpr(mut expr) => {
                normal.apply(&mut expr);
                items.push(Item { expr, alias: None, line: item_line });
            }
            SelectItem::ExprWithAlias { mut expr, alias } => {
                normal.apply(&mut expr);
                items.push(Item { expr, alias: Some(folded(&alias)), line: item_line });
            }
            SelectItem::ExprWithAliases { .. } => {
                normal
                    .page
                    .line(item_line, "several aliases of one expression. Allowed: `… AS name`");
            }
            SelectItem::Wildcard(_) if star.is_none() => star = Some((items.len(), item_line)),
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                normal
                    .page
                    .line(item_line, "SELECT * twice, or of a name. Allowed: one `*`, or columns");
            }
        }
    }
    if items.is_empty() && star.is_none() && normal.page.mistakes.is_empty() {
        normal.page.line(line, "SELECT has no columns. Allowed: at least one");
    }
    Some(Statement { name, options, topic, topic_line, join, filter, group_by, items, star, line })
}

fn settings(page: &mut Page<'_>, options: Vec<SqlOption>, line: usize) -> Vec<Setting> {
    let mut settings = Vec::new();
    for option in options {
        let SqlOption::KeyValue { key, value } = option else {
            page.line(
                line,
                format!("the option `{option}` has no value. Allowed: option = 'value'"),
            );
            continue;
        };
        let line = line_of_span(key.span, line);
        match text_of(&value) {
            Some(text) => {
                settings.push(Setting { key: folded(&key), value: text.to_owned(), line });
            }
            None => page.line(
                line,
                format!(
                    "the option `{key}` has the value {value}. Allowed: {key} = 'value', in quotes"
                ),
            ),
        }
    }
    settings
}

/// The text of a literal in single quotes.
pub(super) fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn select_of(page: &mut Page<'_>, query: Query, line: usize) -> Option<Select> {
    if let Some(with) = &query.with {
        let line = line_of_span(with.with_token.0.span, line);
        page.line(
            line,
            "WITH queries (CTEs) are not supported. Allowed: one SELECT from one topic",
        );
    }
    if let Some(order_by) = &query.order_by {
        let line = line_of(order_by, line);
        page.line(
            line,
            "ORDER BY: a table has no order. Allowed: ORDER BY in the query that reads the table",
        );
    }
    if let Some(limit) = &query.limit_clause {
        let place = match limit {
            LimitClause::LimitOffset { limit: Some(n), .. } => line_of(n, line),
            LimitClause::LimitOffset { offset: Some(n), .. } => line_of(&n.value, line),
            LimitClause::LimitOffset { .. } => line,
            LimitClause::OffsetCommaLimit { limit, .. } => line_of(limit, line),
        };
        page.line(
            place,
            "LIMIT: which rows stay would depend on the order of arrival. Allowed: \
             LIMIT in the query that reads the table",
        );
    }
    if query.fetch.is_some() || !query.locks.is_empty() {
        page.line(
            line,
            "FETCH and FOR UPDATE are not supported. Allowed: one SELECT from one topic",
        );
    }
    match *query.body {
        SetExpr::Select(select) => Some(*select),
        SetExpr::SetOperation { op, right, .. } => {
            let line = line_of(right.as_ref(), line);
            page.line(
                line,
                format!(
                    "{op} is not supported: each model reads one topic by one \
                     SELECT. Allowed: one model per SELECT"
                ),
            );
            None
        }
        other => {
            let line = line_of(&other, line);
            page.line(
                line,
                "the view's query is not a plain SELECT. Allowed: one SELECT from one topic",
            );
            None
        }
    }
}

fn refuse_clauses(page: &mut Page<'_>, select: &Select, line: usize) {
    if select.distinct.is_some() {
        page.line(
            line,
            "SELECT DISTINCT is not supported. Allowed: GROUP BY with the same \
             columns and an aggregate",
        );
    }
    if let Some(having) = &select.having {
        page.line(
            line_of(having, line),
            "HAVING: a group that fails it now may pass it later, \
             so all groups are kept. Allowed: WHERE in the query that reads the table",
        );
    }
    if !select.named_window.is_empty() {
        page.line(
            line,
            "WINDOW (window functions) is not supported. Allowed: tumble(interval \
             '…') with GROUP BY",
        );
    }
    if let Some(qualify) = &select.qualify {
        page.line(line_of(qualify, line), "QUALIFY is not supported. Allowed: WHERE");
    }
    if let Some(prewhere) = &select.prewhere {
        page.line(line_of(prewhere, line), "PREWHERE is not supported. Allowed: WHERE");
    }
    if select.into.is_some() {
        page.line(line, "SELECT INTO is not supported. Allowed: the view itself is the table");
    }
    let more = select.top.is_some()
        || select.exclude.is_some()
        || !select.lateral_views.is_empty()
        || !select.connect_by.is_empty()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty();
    if more {
        page.line(
            line,
            "a clause that is not PostgreSQL's. Allowed: SELECT, FROM, WHERE, GROUP BY",
        );
    }
}

/// The one topic after FROM, its alias, its line.
fn topic_of(
    page: &mut Page<'_>,
    select: &Select,
    line: usize,
) -> Option<(String, Option<String>, usize)> {
    if let Some(second) = select.from.get(1) {
        page.line(
            line_of(&second.relation, line),
            "a second table after FROM is a join, which \
             is not supported yet. Allowed: FROM one topic",
        );
    }
    let Some(first) = select.from.first() else {
        page.line(line, "FROM is missing. Allowed: FROM one topic");
        return None;
    };
    let line = line_of(&first.relation, line);
    match &first.relation {
        TableFactor::Table { name, alias, args: None, .. } => {
            let Some(topic) = single_name(name) else {
                page.line(
                    line,
                    format!("the topic `{name}` has a schema. Allowed: the name of a topic file"),
                );
                return None;
            };
            if alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
                page.line(
                    line,
                    "column aliases after FROM. Allowed: aliases in SELECT (`… AS name`)",
                );
            }
            Some((topic, alias.as_ref().map(|a| folded(&a.name)), line))
        }
        TableFactor::Derived { .. } => {
            page.line(line, "a subquery after FROM is not supported. Allowed: FROM one topic");
            None
        }
        other => {
            page.line(line, format!("`{other}` is not a topic. Allowed: FROM one topic"));
            None
        }
    }
}

const JOIN: &str = "LEFT JOIN reference ON column = reference.key (AND …), with one reference";

/// What stands after JOIN, not yet read.
struct Joined {
    reference: String,
    alias: String,
    on: Vec<Expr>,
    line: usize,
}

/// The reference after LEFT JOIN. None: there is none, or the page has a mistake for it.
fn join_of(page: &mut Page<'_>, select: &Select, line: usize) -> Option<Joined> {
    let joins = &select.from.first()?.joins;
    if let Some(second) = joins.get(1) {
        let line = line_of(&second.relation, line);
        page.line(line, format!("a second JOIN. Allowed: {JOIN}"));
    }
    let join = joins.first()?;
    let line = line_of(&join.relation, line);
    let constraint = match &join.join_operator {
        JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => constraint,
        JoinOperator::Join(_) | JoinOperator::Inner(_) => {
            page.line(
                line,
                "an inner JOIN would lose each record that the reference does not know yet. Allowed: LEFT JOIN, and \
                 WHERE reference.key IS NOT NULL where such records are to be left out (and counted)",
            );
            return None;
        }
        _ => {
            page.line(line, format!("such a join is not supported. Allowed: {JOIN}"));
            return None;
        }
    };
    let TableFactor::Table { name, alias, args: None, .. } = &join.relation else {
        page.line(line, format!("`{}` is not a reference. Allowed: {JOIN}", join.relation));
        return None;
    };
    let Some(reference) = single_name(name) else {
        page.line(line, format!("the reference `{name}` has a schema. Allowed: {JOIN}"));
        return None;
    };
    let alias = alias.as_ref().map_or_else(|| reference.clone(), |alias| folded(&alias.name));
    let on = match constraint {
        JoinConstraint::On(on) => equalities(on),
        JoinConstraint::Using(_) | JoinConstraint::Natural | JoinConstraint::None => Vec::new(),
    };
    if on.is_empty() {
        page.line(line, format!("a JOIN without ON. Allowed: {JOIN}"));
        return None;
    }
    Some(Joined { reference, alias, on: on.into_iter().cloned().collect(), line })
}

/// What AND joins.
fn equalities(on: &Expr) -> Vec<&Expr> {
    match on {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            [equalities(left), equalities(right)].concat()
        }
        Expr::Nested(inner) => equalities(inner),
        other => vec![other],
    }
}

impl Joined {
    fn read(&self, normal: &mut Normal<'_, '_>) -> Option<JoinClause> {
        let of_reference = format!("{}.", self.reference);
        let mut on = Vec::new();
        for equality in &self.on {
            let line = line_of(equality, self.line);
            let mut equality = equality.clone();
            normal.apply(&mut equality);
            let pair = match &equality {
                Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                    match (left.as_ref(), right.as_ref()) {
                        (Expr::Identifier(a), Expr::Identifier(b)) => Some((&a.value, &b.value)),
                        _ => None,
                    }
                }
                _ => None,
            };
            let pair = pair.and_then(|(a, b)| {
                match (a.strip_prefix(&of_reference), b.strip_prefix(&of_reference)) {
                    (None, Some(column)) => Some((a.clone(), column.to_owned())),
                    (Some(column), None) => Some((b.clone(), column.to_owned())),
                    _ => None,
                }
            });
            match pair {
                Some(pair) => on.push(pair),
                None => {
                    normal.page.line(line, format!("ON {equality}. Allowed: {JOIN}"));
                    return None;
                }
            }
        }
        Some(JoinClause { reference: self.reference.clone(), on, line: self.line })
    }
}

fn single_name(name: &ObjectName) -> Option<String> {
    match name.0.as_slice() {
        [part] => part.as_ident().map(folded),
        _ => None,
    }
}

/// PostgreSQL reads names in lower case unless they are quoted.
pub(super) fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// Makes equal expressions print equally.
struct Normal<'p, 'a> {
    topic: &'p str,
    alias: Option<&'p str>,
    /// A reference, and what it is called here.
    joined: Option<(&'p str, &'p str)>,
    page: &'p mut Page<'a>,
    line: usize,
}

impl Normal<'_, '_> {
    fn apply(&mut self, expr: &mut Expr) {
        let _ = visit_expressions_mut(expr, |e| {
            match e {
                Expr::Identifier(ident) => plain(ident),
                Expr::CompoundIdentifier(parts) => {
                    let line = parts.first().map_or(self.line, |p| line_of_span(p.span, self.line));
                    let qualifier: Vec<String> =
                        parts[..parts.len() - 1].iter().map(folded).collect();
                    let known = self.alias.unwrap_or(self.topic);
                    let reference = self.joined.filter(|(_, alias)| qualifier == [*alias]);
                    if qualifier != [known] && reference.is_none() {
                        let also = self.joined.map_or(String::new(), |(_, a)| format!(" and {a}"));
                        self.page.line(
                            line,
                            format!(
                                "unknown table `{}`. Allowed: {known}{also}, or no qualifier at all",
                                qualifier.join(".")
                            ),
                        );
                    }
                    if let Some(mut column) = parts.pop() {
                        plain(&mut column);
                        if let Some((reference, _)) = reference {
                            column.value = format!("{reference}.{}", column.value);
                        }
                        *e = Expr::Identifier(column);
                    }
                }
                Expr::Function(function) => {
                    for part in &mut function.name.0 {
                        if let ObjectNamePart::Identifier(ident) = part {
                            plain(ident);
                        }
                    }
                }
                // Brackets around a whole expression say nothing; inside they are kept.
                _ => {}
            }
            ControlFlow::<()>::Continue(())
        });
        while let Expr::Nested(inner) = expr {
            *expr = (**inner).clone();
        }
    }
}

/// Quotes are kept only where they change the meaning.
fn plain(ident: &mut Ident) {
    ident.value = folded(ident);
    if ident.value == ident.value.to_lowercase() {
        ident.quote_style = None;
    }
}
