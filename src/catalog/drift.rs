//! Drift: how a source's table, as the schema of a record tells it, differs from what is declared.
//!
//! Owns: the shape of a source's table ([`Upstream`]), the judgement of a change of it, the sentences
//! that say what to do. Does not own: how a schema is read (`decode`), what becomes of a topic that is
//! widened (`widened`), what is known of a topic already (`warehouse`).
//!
//! A column that nothing declares is *added*; one whose values the declared type does not take, but a
//! wider one of its family does, is *widened*. Both can be lived with, or followed. Everything else that
//! is another way than it was (a column gone, another type, a narrower one, another key) stops the topic.
//! What the declared type takes is no drift where only precision changed: milliseconds for
//! microseconds, digits of a numeric.

use super::{
    PgType, Topic, TopicColumn,
    fingerprint::sha256,
    mistake::{Page, check_name},
    sql::{Item, Statement},
};
use datafusion_sql::sqlparser::ast::{Expr, Ident};
use serde_json::{Value, json};
use std::fmt::Write;

/// What a topic does about columns that were added or widened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drift {
    /// It tells.
    Off,
    /// It tells what to do.
    Plan,
    /// It follows.
    Apply,
}

/// A source's table, as the schema of its records tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub columns: Vec<UpstreamColumn>,
    /// Fields of its primary key; None: the record does not say.
    pub key: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamColumn {
    pub name: String,
    /// The narrowest type that takes all of its values; `numeric` without bounds: nobody knows.
    pub pg: PgType,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// As declared; of one that is added, as it would be.
    pub column: String,
    /// As the source calls it.
    pub field: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Added(PgType),
    Widened {
        declared: PgType,
        upstream: PgType,
        to: PgType,
    },
    Removed {
        declared: PgType,
    },
    Changed {
        declared: PgType,
        before: PgType,
        upstream: PgType,
    },
    Narrowed {
        declared: PgType,
        before: PgType,
        upstream: PgType,
    },
    /// The fields of the key, before and now.
    Key {
        before: Vec<String>,
        now: Vec<String>,
    },
}

/// What a change of a source's type means for a declared column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    Fits,
    /// A column of this type would take all values.
    Widened(PgType),
    Narrowed,
    Changed,
}

impl Drift {
    pub(super) const ALL: [Self; 3] = [Self::Off, Self::Plan, Self::Apply];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Plan => "plan",
            Self::Apply => "apply",
        }
    }
}

impl Upstream {
    /// Hexadecimal SHA-256: the same for the same table, whoever reads it.
    pub fn id(&self) -> String {
        sha256(&self.to_json())
    }

    pub fn to_json(&self) -> String {
        let column = |c: &UpstreamColumn| json!({ "name": c.name, "type": c.pg.to_string() });
        let columns: Vec<Value> = self.columns.iter().map(column).collect();
        json!({ "columns": columns, "key": self.key }).to_string()
    }

    /// None: no text of [`Self::to_json`].
    pub fn from_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let column = |value: &Value| {
            let pg = match value["type"].as_str()? {
                "numeric" => PgType::NumericAny,
                bounded => PgType::parse(bounded).ok()?,
            };
            Some(UpstreamColumn { name: text(&value["name"])?, pg })
        };
        let columns = value["columns"].as_array()?.iter().map(column).collect::<Option<_>>()?;
        let key = match &value["key"] {
            Value::Null => None,
            key => Some(key.as_array()?.iter().map(text).collect::<Option<_>>()?),
        };
        Some(Self { columns, key })
    }

    fn column(&self, declared: &TopicColumn) -> Option<&UpstreamColumn> {
        // A column's own name beats its camelCase, as in decoding.
        let own = declared.path_is_default.then_some(declared.name.as_str());
        let names = own.into_iter().chain(declared.path.first().map(String::as_str));
        let mut found = names.filter_map(|name| self.columns.iter().find(|c| c.name == name));
        found.next()
    }
}

/// Whether a column declared so takes every value of the other type as it is.
pub fn takes(declared: PgType, upstream: PgType) -> bool {
    use PgType as P;
    let digits = |pg| match pg {
        P::SmallInt => Some((5, 0)),
        P::Integer => Some((10, 0)),
        P::BigInt => Some((19, 0)),
        P::Numeric(p, s) => Some((i16::from(p) - i16::from(s), i16::from(s))),
        _ => None,
    };
    match (declared, upstream) {
        (P::Text | P::Jsonb, _) => true,
        (P::NumericAny, P::NumericAny | P::Numeric(..)) => true,
        (P::Numeric(..), _) => match (digits(declared), digits(upstream)) {
            (Some((whole, scale)), Some((other, finer))) => whole >= other && scale >= finer,
            _ => false,
        },
        (P::BigInt, P::SmallInt | P::Integer) | (P::Integer, P::SmallInt) => true,
        (P::Real, P::SmallInt) => true,
        (P::Double, P::SmallInt | P::Integer | P::Real) => true,
        (a, b) => a == b,
    }
}

/// The narrowest type that takes both, of types of one family; None: they are of two.
fn joined(declared: PgType, upstream: PgType) -> Option<PgType> {
    use PgType as P;
    match (declared, upstream) {
        (P::SmallInt | P::Integer | P::BigInt, P::SmallInt | P::Integer | P::BigInt)
        | (P::Real | P::Double, P::Real | P::Double) => {
            Some(if takes(declared, upstream) { declared } else { upstream })
        }
        (P::Numeric(p, s), P::Numeric(q, t)) => {
            let scale = s.max(t);
            let whole = (p as i8 - s).max(q as i8 - t);
            let precision =
                u8::try_from(whole + scale).ok().filter(|precision| *precision <= 38)?;
            Some(P::Numeric(precision, scale))
        }
        _ => None,
    }
}

/// What the source's type means for a column declared so; `before` is what the source had, if anybody
/// knows. A difference that was always there is what the topic file means.
pub fn judge(declared: PgType, before: Option<PgType>, upstream: PgType) -> Judged {
    if upstream == PgType::NumericAny {
        let alike = |pg| matches!(pg, PgType::Numeric(..) | PgType::NumericAny);
        return match before {
            Some(before) if !alike(before) && !takes(upstream, before) => Judged::Changed,
            _ => Judged::Fits,
        };
    }
    if !takes(declared, upstream) {
        let of_family = joined(declared, upstream);
        return match (of_family, before) {
            (Some(wider), _) => Judged::Widened(wider),
            (None, Some(before)) if before != upstream => Judged::Changed,
            (None, _) => Judged::Fits,
        };
    }
    let Some(before) = before.filter(|before| !takes(upstream, *before)) else {
        return Judged::Fits;
    };
    match (before, joined(before, upstream)) {
        (PgType::Numeric(..) | PgType::NumericAny, _)
            if matches!(upstream, PgType::Numeric(..)) =>
        {
            Judged::Fits
        }
        (_, Some(_)) => Judged::Narrowed,
        (_, None) => Judged::Changed,
    }
}

/// How the source's table differs from what the topic declares; `before` is the table as it was in
/// the partition before, if that is known.
pub fn compare(topic: &Topic, before: Option<&Upstream>, now: &Upstream) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named: Vec<&str> = Vec::new();
    for declared in &topic.columns {
        let (was, is) = (before.and_then(|b| b.column(declared)), now.column(declared));
        named.extend(is.map(|column| column.name.as_str()));
        // Nothing is read of it, or a part that the schema's first level does not tell.
        if declared.pii == Some(super::Pii::Drop) || declared.path.len() > 1 {
            continue;
        }
        let what = match (was, is) {
            (Some(_), None) => What::Removed { declared: declared.pg },
            (_, None) => continue,
            (was, Some(is)) => {
                let (declared, upstream) = (declared.pg, is.pg);
                let was = was.map(|was| was.pg);
                let before = was.unwrap_or(upstream);
                match judge(declared, was, upstream) {
                    Judged::Fits => continue,
                    Judged::Widened(to) => What::Widened { declared, upstream, to },
                    Judged::Narrowed => What::Narrowed { declared, before, upstream },
                    Judged::Changed => What::Changed { declared, before, upstream },
                }
            }
        };
        let field = is.or(was).map_or(declared.name.clone(), |column| column.name.clone());
        findings.push(Finding { column: declared.name.clone(), field, what });
    }
    for column in now.columns.iter().filter(|c| !named.contains(&c.name.as_str())) {
        let what = What::Added(column.pg);
        let (column, field) = (snake_case(&column.name), column.name.clone());
        findings.push(Finding { column, field, what });
    }
    if let (Some(before), Some(now)) = (before.and_then(|b| b.key.as_ref()), &now.key)
        && before != now
    {
        let what = What::Key { before: before.clone(), now: now.clone() };
        findings.push(Finding { column: "(key)".into(), field: String::new(), what });
    }
    findings
}

impl Finding {
    /// Whether the topic can go on as it is declared.
    pub fn is_compatible(&self) -> bool {
        matches!(self.what, What::Added(_) | What::Widened { .. })
    }

    /// Why it cannot be followed by itself; None: it can.
    pub fn unfit(&self, topic: &Topic) -> Option<String> {
        match &self.what {
            What::Added(PgType::NumericAny) => {
                Some("a numeric without bounds, and files have fixed ones".to_owned())
            }
            What::Added(_) if topic.columns.iter().any(|c| c.name == self.column) => {
                Some(format!("`{}` is another field's column", self.column))
            }
            What::Added(_) => check_name("column", &self.column).err(),
            What::Widened { .. } => None,
            What::Removed { .. }
            | What::Changed { .. }
            | What::Narrowed { .. }
            | What::Key { .. } => Some("it is no addition".to_owned()),
        }
    }

    /// The line for `[columns]` of the topic file.
    pub fn line(&self) -> Option<String> {
        let pg = match self.what {
            What::Added(PgType::NumericAny) => "numeric(38,…)".to_owned(),
            What::Added(pg) | What::Widened { to: pg, .. } => pg.to_string(),
            What::Removed { .. }
            | What::Changed { .. }
            | What::Narrowed { .. }
            | What::Key { .. } => return None,
        };
        let found_by_name =
            self.field == self.column || self.field == super::topic_file::camel_case(&self.column);
        let from = match found_by_name || matches!(self.what, What::Widened { .. }) {
            true => String::new(),
            false => {
                let pointer = self.field.replace('~', "~0").replace('/', "~1");
                format!(", from = {:?}", format!("/{pointer}"))
            }
        };
        Some(match self.what {
            What::Widened { .. } => format!("{}: type = \"{pg}\"", self.column),
            _ => format!("{} = {{ type = \"{pg}\", optional = true{from} }}", self.column),
        })
    }

    /// Column, declared, upstream, what to do.
    pub fn cells(&self) -> [String; 4] {
        let text = |pg: &PgType| pg.to_string();
        let line = || self.line().unwrap_or_default();
        let (declared, upstream, remedy) = match &self.what {
            What::Added(pg) => ("(none)".into(), text(pg), format!("declare it: {}", line())),
            What::Widened { declared, upstream, .. } => {
                (text(declared), text(upstream), format!("declare it wider: {}", line()))
            }
            What::Removed { declared } => (
                text(declared),
                "(gone)".into(),
                "put it back in the source; or accept, and it is NULL from here on (a dead letter where it is not \
                 optional)"
                    .into(),
            ),
            What::Changed { declared, before, upstream } => (
                text(declared),
                format!("{upstream}, was {before}"),
                "change it back in the source; or declare the new type (a new model for its tables); or accept, and \
                 what does not fit is a dead letter"
                    .into(),
            ),
            What::Narrowed { declared, before, upstream } => (
                text(declared),
                format!("{upstream}, was {before}"),
                "accept, if it is meant: the declared type takes all of it".into(),
            ),
            What::Key { before, now } => (
                before.join(", "),
                now.join(", "),
                "change it back in the source; or declare changes.key anew, with new models".into(),
            ),
        };
        [self.column.clone(), declared, upstream, remedy]
    }
}

/// The findings as a table for people, with a line before each.
pub fn diff(findings: &[Finding]) -> String {
    let head = ["column", "declared", "upstream", "what to do"].map(str::to_owned);
    let rows: Vec<[String; 4]> =
        std::iter::once(head).chain(findings.iter().map(Finding::cells)).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let (a, b, c) = (width(0), width(1), width(2));
    rows.iter().fold(String::new(), |mut text, [column, declared, upstream, remedy]| {
        let _ = write!(text, "\n  {column:a$}  {declared:b$}  {upstream:c$}  {remedy}");
        text
    })
}

/// `SELECT *`: the columns that the topic has, where the topic says what becomes of others.
pub(super) fn select_all(page: &mut Page<'_>, statement: &mut Statement, topic: &Topic) {
    let Some((at, line)) = statement.star else { return };
    if topic.drift == Drift::Off {
        page.line(
            line,
            format!(
                "SELECT * would change the table whenever the topic changes. Allowed: a list of columns; drift = \
                 \"plan\" or \"apply\" in {}",
                topic.file.display()
            ),
        );
    }
    let kept = topic.columns.iter().filter(|column| column.kept().is_some());
    let expr = |column: &TopicColumn| Expr::Identifier(Ident::new(column.name.as_str()));
    let items = kept.map(|column| Item { expr: expr(column), alias: None, line });
    statement.items.splice(at..at, items);
}

/// `deviceId` is `device_id`.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    let mut after_lower = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && after_lower {
            out.push('_');
        }
        after_lower = letter.is_ascii_lowercase() || letter.is_ascii_digit();
        out.push(letter.to_ascii_lowercase());
    }
    out
}
