//! Expressions over aggregates: the text of PostgreSQL's generated columns.
//!
//! Owns: what such an expression may hold, the type that it has. Does not own: the aggregates and
//! keys in it, which it asks for.
//!
//! The expression is computed by PostgreSQL inside the transaction that commits a cut, so it must
//! not fail for any value: an error there would stop the model for good. Hence:
//! - a division or remainder by zero is NULL (`nullif(…, 0)` is put around the divisor);
//! - whole numbers are added and multiplied as numeric, which does not overflow;
//! - text is not cast to anything.
//!
//! Only a cast that the user wrote to a narrower type can still fail.
//!
//! Types follow PostgreSQL: whole numbers divide to a whole number (towards zero), any double
//! makes a double, all else is numeric. `real` counts as double. `sum(integer)` is a whole number
//! as in PostgreSQL, although it is kept as numeric; `sum(bigint)` is numeric there as here.

use super::{PgType, sql::line_of};
use datafusion_sql::sqlparser::ast::{
    BinaryOperator as Op, CaseWhen, CastKind, CeilFloorKind, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, UnaryOperator, Value,
};

pub(super) const ALLOWED: &str = "Allowed around aggregates: + - * / %, comparison, AND, OR, NOT, IS NULL, BETWEEN, \
    IN (…), CASE, coalesce, nullif, greatest, least, abs, round, floor, ceil, casts of numbers to numeric, bigint, \
    integer, double precision and text; anything else inside the aggregate or in GROUP BY";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    Number,
    Double,
    /// NULL itself: of any type.
    Null,
    /// Everything that is not a number; only equal types meet.
    Other,
}

/// A piece of PostgreSQL's SQL with its type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub sql: String,
    pub pg: PgType,
    pub kind: Kind,
}

impl Piece {
    /// A column of the table. `whole`: a whole number to PostgreSQL, whatever type keeps it.
    pub fn column(name: &str, pg: PgType, whole: bool) -> Self {
        let sql = quoted(name);
        match pg {
            PgType::Real => Self::double(format!("({sql})::double precision")),
            PgType::Double => Self::double(sql),
            PgType::SmallInt | PgType::Integer | PgType::BigInt => {
                Self { sql, pg, kind: Kind::Whole }
            }
            PgType::Numeric(..) | PgType::NumericAny => {
                Self { sql, pg, kind: if whole { Kind::Whole } else { Kind::Number } }
            }
            PgType::Text
            | PgType::Boolean
            | PgType::Date
            | PgType::Timestamptz
            | PgType::Uuid
            | PgType::Jsonb
            | PgType::Bytea => Self { sql, pg, kind: Kind::Other },
        }
    }

    pub fn number(sql: String) -> Self {
        Self { sql, pg: PgType::NumericAny, kind: Kind::Number }
    }

    pub fn double(sql: String) -> Self {
        Self { sql, pg: PgType::Double, kind: Kind::Double }
    }

    fn whole(sql: String) -> Self {
        Self { sql, pg: PgType::NumericAny, kind: Kind::Whole }
    }

    fn boolean(sql: String) -> Self {
        Self { sql, pg: PgType::Boolean, kind: Kind::Other }
    }

    fn is_number(&self) -> bool {
        match self.kind {
            Kind::Whole | Kind::Number | Kind::Double | Kind::Null => true,
            Kind::Other => false,
        }
    }

    fn is_boolean(&self) -> bool {
        self.kind == Kind::Null || self.pg == PgType::Boolean
    }

    fn is_integer(&self) -> bool {
        self.kind == Kind::Whole && integer_width(self.pg).is_some()
    }

    fn as_numeric(&self) -> String {
        match self.pg {
            PgType::Numeric(..) | PgType::NumericAny => self.sql.clone(),
            _ => format!("({})::numeric", unbracketed(&self.sql)),
        }
    }
}

fn integer_width(pg: PgType) -> Option<u8> {
    match pg {
        PgType::SmallInt => Some(16),
        PgType::Integer => Some(32),
        PgType::BigInt => Some(64),
        _ => None,
    }
}

/// An identifier, always in quotes: no word is reserved then.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `a / b`, NULL where `b` is zero.
pub(super) fn quotient(a: &str, b: &str) -> String {
    format!("{a} / {}", non_zero(b))
}

fn non_zero(sql: &str) -> String {
    let literal = sql.parse::<f64>().is_ok_and(|n| n != 0.0);
    match literal || sql.starts_with("nullif(") && sql.ends_with(", 0)") {
        true => sql.to_owned(),
        false => format!("nullif({}, 0)", unbracketed(sql)),
    }
}

/// The SQL without brackets around the whole of it.
pub(super) fn unbracketed(sql: &str) -> &str {
    let Some(inner) = sql.strip_prefix('(').and_then(|s| s.strip_suffix(')')) else { return sql };
    let (mut depth, mut quote) = (0i32, None);
    for c in inner.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
        if depth < 0 {
            return sql;
        }
    }
    inner
}

/// Why there is no piece.
pub(super) enum Wrong {
    /// It stands on the page already.
    Told,
    At(usize, String),
}

type Made = Result<Piece, Wrong>;

/// Gives the keys and aggregates in an expression; None: it is neither.
pub(super) trait Leaves {
    fn leaf(&mut self, expr: &Expr, line: usize) -> Option<Made>;
    /// What to say of a column that is neither grouped nor aggregated.
    fn stray(&self, name: &str) -> String;
}

/// Translates one expression of SELECT.
pub(super) struct Generator<'l, L> {
    pub leaves: &'l mut L,
    pub line: usize,
}

impl<L: Leaves> Generator<'_, L> {
    pub fn piece(&mut self, expr: &Expr) -> Made {
        if let Some(made) = self.leaves.leaf(expr, self.line) {
            return made;
        }
        match expr {
            Expr::Nested(inner) => self.piece(inner),
            Expr::Identifier(ident) => self.wrong(expr, self.leaves.stray(&ident.value)),
            Expr::Value(value) => self.literal(expr, &value.value),
            Expr::UnaryOp { op, expr: inner } => self.unary(expr, *op, inner),
            Expr::BinaryOp { left, op, right } => {
                let (a, b) = (self.piece(left)?, self.piece(right)?);
                self.binary(expr, op, a, b)
            }
            Expr::IsNull(inner) => self.test(inner, "IS NULL"),
            Expr::IsNotNull(inner) => self.test(inner, "IS NOT NULL"),
            Expr::IsTrue(inner) => self.truth(inner, "IS TRUE"),
            Expr::IsNotTrue(inner) => self.truth(inner, "IS NOT TRUE"),
            Expr::IsFalse(inner) => self.truth(inner, "IS FALSE"),
            Expr::IsNotFalse(inner) => self.truth(inner, "IS NOT FALSE"),
            Expr::Between { expr: inner, negated, low, high } => {
                let pieces = [self.piece(inner)?, self.piece(low)?, self.piece(high)?];
                self.common(expr, &pieces)?;
                let not = if *negated { "NOT " } else { "" };
                let [x, low, high] = &pieces;
                Ok(Piece::boolean(format!(
                    "({} {not}BETWEEN {} AND {})",
                    collated(x),
                    low.sql,
                    high.sql
                )))
            }
            Expr::InList { expr: inner, list, negated } => {
                let x = self.piece(inner)?;
                let mut all = vec![x.clone()];
                for item in list {
                    all.push(self.piece(item)?);
                }
                self.common(expr, &all)?;
                let not = if *negated { "NOT " } else { "" };
                Ok(Piece::boolean(format!("({} {not}IN ({}))", collated(&x), listed(&all[1..]))))
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                self.case(expr, operand.as_deref(), conditions, else_result.as_deref())
            }
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr: inner,
                data_type,
                ..
            } => {
                let from = self.piece(inner)?;
                self.cast(expr, from, &data_type.to_string())
            }
            Expr::Ceil { expr: inner, field } => self.rounded(expr, "ceil", inner, field),
            Expr::Floor { expr: inner, field } => self.rounded(expr, "floor", inner, field),
            Expr::Function(function) => self.function(expr, function),
            _ => self.wrong(expr, format!("`{expr}` cannot stand around aggregates. {ALLOWED}")),
        }
    }

    fn wrong<T>(&self, expr: &Expr, what: String) -> Result<T, Wrong> {
        Err(Wrong::At(line_of(expr, self.line), what))
    }

    fn numbers(&self, expr: &Expr, pieces: &[&Piece]) -> Result<(), Wrong> {
        match pieces.iter().find(|p| !p.is_number()) {
            None => Ok(()),
            Some(p) => self.wrong(expr, format!("`{expr}` counts with {}. Allowed: numbers", p.pg)),
        }
    }

    fn literal(&self, expr: &Expr, value: &Value) -> Made {
        Ok(match value {
            Value::Number(digits, _) => match digits.parse::<i64>() {
                Ok(n) => Piece {
                    sql: digits.clone(),
                    pg: if i32::try_from(n).is_ok() { PgType::Integer } else { PgType::BigInt },
                    kind: Kind::Whole,
                },
                Err(_) => Piece::number(digits.clone()),
            },
            Value::SingleQuotedString(text) => Piece {
                sql: format!("'{}'", text.replace('\'', "''")),
                pg: PgType::Text,
                kind: Kind::Other,
            },
            Value::Boolean(truth) => Piece::boolean(truth.to_string()),
            Value::Null => Piece { sql: "NULL".into(), pg: PgType::Text, kind: Kind::Null },
            _ => {
                return self.wrong(
                    expr,
                    format!("the literal {expr} cannot stand around aggregates. {ALLOWED}"),
                );
            }
        })
    }

    fn unary(&mut self, expr: &Expr, op: UnaryOperator, inner: &Expr) -> Made {
        let p = self.piece(inner)?;
        match op {
            UnaryOperator::Not if p.is_boolean() => Ok(Piece::boolean(format!("(NOT {})", p.sql))),
            UnaryOperator::Minus if p.is_number() => {
                Ok(Piece { sql: format!("(- {})", p.sql), ..p })
            }
            UnaryOperator::Plus if p.is_number() => Ok(p),
            _ => self.wrong(expr, format!("`{expr}`: {op} does not go with {}. {ALLOWED}", p.pg)),
        }
    }

    fn binary(&self, expr: &Expr, op: &Op, a: Piece, b: Piece) -> Made {
        match op {
            Op::Plus | Op::Minus | Op::Multiply | Op::Divide | Op::Modulo => {
                self.numbers(expr, &[&a, &b])?;
                self.arithmetic(expr, op, &a, &b)
            }
            Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq => {
                self.common(expr, &[a.clone(), b.clone()])?;
                Ok(Piece::boolean(format!("({} {op} {})", collated(&a), b.sql)))
            }
            Op::And | Op::Or if a.is_boolean() && b.is_boolean() => {
                Ok(Piece::boolean(format!("({} {op} {})", a.sql, b.sql)))
            }
            Op::And | Op::Or => {
                self.wrong(expr, format!("`{expr}`: {op} needs booleans on both sides. {ALLOWED}"))
            }
            _ => self
                .wrong(expr, format!("`{expr}`: {op} cannot stand around aggregates. {ALLOWED}")),
        }
    }

    fn arithmetic(&self, expr: &Expr, op: &Op, a: &Piece, b: &Piece) -> Made {
        let double = a.kind == Kind::Double || b.kind == Kind::Double;
        let whole = a.kind == Kind::Whole && b.kind == Kind::Whole;
        let divisor = match op {
            Op::Divide | Op::Modulo => non_zero(&b.sql),
            _ => b.sql.clone(),
        };
        if double && *op == Op::Modulo {
            return self.wrong(
                expr,
                format!(
                    "`{expr}`: PostgreSQL has no % of double precision. Allowed: a cast to numeric"
                ),
            );
        }
        let sql = match op {
            // Whole numbers divide to a whole number, towards zero; numeric's own `/` would not.
            Op::Divide if whole => format!("div({}, {divisor})", a.sql),
            _ if double => format!("({} {op} {divisor})", a.sql),
            // One numeric operand makes all of it numeric, which cannot overflow.
            _ => format!("({} {op} {divisor})", a.as_numeric()),
        };
        Ok(match (double, whole) {
            (true, _) => Piece::double(sql),
            (false, true) => Piece::whole(sql),
            (false, false) => Piece::number(sql),
        })
    }

    /// The type that PostgreSQL finds for values that meet in one place.
    fn common(&self, expr: &Expr, pieces: &[Piece]) -> Result<(PgType, Kind), Wrong> {
        let mut known = pieces.iter().filter(|p| p.kind != Kind::Null);
        let Some(first) = known.next() else {
            return self
                .wrong(expr, format!("`{expr}` is always NULL. Allowed: at least one value"));
        };
        let (mut pg, mut kind) = (first.pg, first.kind);
        for p in known {
            if p.pg == pg && p.kind == kind {
                continue;
            }
            if p.kind == Kind::Other || kind == Kind::Other {
                if p.pg == pg {
                    continue;
                }
                return self.wrong(
                    expr,
                    format!("`{expr}` mixes {pg} and {}. Allowed: one type, or numbers only", p.pg),
                );
            }
            if kind == Kind::Double || p.kind == Kind::Double {
                (pg, kind) = (PgType::Double, Kind::Double);
            } else {
                pg = match (integer_width(pg), integer_width(p.pg)) {
                    (Some(a), Some(b)) => {
                        if a >= b {
                            pg
                        } else {
                            p.pg
                        }
                    }
                    _ => PgType::NumericAny,
                };
                if p.kind == Kind::Number {
                    kind = Kind::Number;
                }
            }
        }
        Ok((pg, kind))
    }

    fn test(&mut self, inner: &Expr, what: &str) -> Made {
        let p = self.piece(inner)?;
        Ok(Piece::boolean(format!("({} {what})", p.sql)))
    }

    fn truth(&mut self, inner: &Expr, what: &str) -> Made {
        let p = self.piece(inner)?;
        match p.is_boolean() {
            true => Ok(Piece::boolean(format!("({} {what})", p.sql))),
            false => self
                .wrong(inner, format!("`{inner}` is {}. Allowed: a boolean before {what}", p.pg)),
        }
    }

    fn case(
        &mut self,
        expr: &Expr,
        operand: Option<&Expr>,
        whens: &[CaseWhen],
        otherwise: Option<&Expr>,
    ) -> Made {
        let operand = operand.map(|o| self.piece(o)).transpose()?;
        let mut sql = "CASE".to_owned();
        if let Some(operand) = &operand {
            sql = format!("{sql} {}", collated(operand));
        }
        let mut results = Vec::new();
        for when in whens {
            let condition = self.piece(&when.condition)?;
            match &operand {
                Some(operand) => {
                    self.common(expr, &[operand.clone(), condition.clone()])?;
                }
                None if !condition.is_boolean() => {
                    return self.wrong(
                        &when.condition,
                        format!("WHEN {} is {}. Allowed: a boolean", when.condition, condition.pg),
                    );
                }
                None => {}
            }
            let result = self.piece(&when.result)?;
            sql = format!("{sql} WHEN {} THEN {}", condition.sql, result.sql);
            results.push(result);
        }
        if let Some(otherwise) = otherwise {
            let result = self.piece(otherwise)?;
            sql = format!("{sql} ELSE {}", result.sql);
            results.push(result);
        }
        let (pg, kind) = self.common(expr, &results)?;
        Ok(Piece { sql: format!("{sql} END"), pg, kind })
    }

    fn cast(&self, expr: &Expr, from: Piece, target: &str) -> Made {
        let lower = target.to_lowercase();
        let pg = match lower.as_str() {
            "numeric" | "decimal" | "dec" => PgType::NumericAny,
            _ => PgType::parse(&lower).map_err(|what| Wrong::At(line_of(expr, self.line), what))?,
        };
        let fits = match pg {
            PgType::NumericAny
            | PgType::Numeric(..)
            | PgType::BigInt
            | PgType::Integer
            | PgType::SmallInt
            | PgType::Double => from.is_number(),
            PgType::Text => from.is_number() || matches!(from.pg, PgType::Text | PgType::Boolean),
            PgType::Boolean => from.is_boolean(),
            PgType::Real
            | PgType::Date
            | PgType::Timestamptz
            | PgType::Uuid
            | PgType::Jsonb
            | PgType::Bytea => false,
        };
        if !fits {
            return self.wrong(
                expr,
                format!(
                    "`{expr}`: a cast from {} to {pg} cannot stand around aggregates. {ALLOWED}",
                    from.pg
                ),
            );
        }
        Ok(Piece {
            kind: Piece::column("", pg, false).kind,
            sql: format!("({})::{pg}", unbracketed(&from.sql)),
            pg,
        })
    }

    fn rounded(&mut self, expr: &Expr, name: &str, inner: &Expr, field: &CeilFloorKind) -> Made {
        use datafusion_sql::sqlparser::ast::DateTimeField;
        match field {
            CeilFloorKind::DateTimeField(DateTimeField::NoDateTime) => {
                let p = self.piece(inner)?;
                self.one_number(expr, name, p)
            }
            CeilFloorKind::DateTimeField(_) | CeilFloorKind::Scale(_) => {
                self.wrong(expr, format!("{name} takes one number. Allowed: {name}(x)"))
            }
        }
    }

    fn one_number(&self, expr: &Expr, name: &str, p: Piece) -> Made {
        self.numbers(expr, &[&p])?;
        if p.is_integer() && name != "abs" {
            return Ok(p);
        }
        let sql = format!("{name}({})", p.sql);
        Ok(match p.kind {
            Kind::Double => Piece::double(sql),
            Kind::Whole => Piece { sql, ..p },
            Kind::Number | Kind::Null | Kind::Other => Piece::number(sql),
        })
    }

    fn function(&mut self, expr: &Expr, function: &Function) -> Made {
        let name = function.name.to_string().to_lowercase();
        let FunctionArguments::List(list) = &function.args else {
            return self.wrong(expr, format!("`{expr}` cannot stand around aggregates. {ALLOWED}"));
        };
        let mut pieces = Vec::new();
        let known =
            ["coalesce", "nullif", "greatest", "least", "abs", "round", "floor", "ceil", "ceiling"];
        if !known.contains(&name.as_str()) {
            return self.wrong(expr, format!("{name}() cannot stand around aggregates. {ALLOWED}"));
        }
        for arg in &list.args {
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) = arg else {
                return self.wrong(
                    expr,
                    format!("`{expr}` has an argument that is no expression. {ALLOWED}"),
                );
            };
            pieces.push(self.piece(arg)?);
        }
        match (name.as_str(), pieces.as_slice()) {
            ("coalesce", [_, ..]) => {
                let (pg, kind) = self.common(expr, &pieces)?;
                Ok(Piece { sql: format!("coalesce({})", listed(&pieces)), pg, kind })
            }
            ("greatest" | "least", [_, ..]) => {
                let (pg, kind) = self.common(expr, &pieces)?;
                let rest = pieces[1..].iter().map(|p| format!(", {}", p.sql)).collect::<String>();
                Ok(Piece { sql: format!("{name}({}{rest})", collated(&pieces[0])), pg, kind })
            }
            ("nullif", [a, b]) => {
                self.common(expr, &pieces)?;
                let sql = format!("nullif({}, {})", collated(a), b.sql);
                Ok(Piece { sql, pg: a.pg, kind: a.kind })
            }
            ("abs" | "round" | "floor" | "ceil" | "ceiling", [p]) => {
                self.one_number(expr, &name, p.clone())
            }
            ("round", [p, digits]) => {
                self.numbers(expr, &[p, digits])?;
                if !digits
                    .sql
                    .trim_matches(['(', ')', '-', ' '])
                    .bytes()
                    .all(|b| b.is_ascii_digit())
                {
                    return self.wrong(
                        expr,
                        "round's second argument is not a literal. Allowed: round(x, 2)".into(),
                    );
                }
                // PostgreSQL rounds to digits in numeric alone.
                Ok(Piece::number(format!("round({}, {})", p.as_numeric(), digits.sql)))
            }
            _ => self.wrong(
                expr,
                format!("`{expr}`: {name} does not take {} arguments. {ALLOWED}", pieces.len()),
            ),
        }
    }
}

/// Text compares by its bytes, as it does in a cut, not by the database's language. One side's
/// explicit collation decides for both.
fn collated(p: &Piece) -> String {
    match p.pg {
        PgType::Text if p.kind != Kind::Null => format!("({} COLLATE \"C\")", p.sql),
        _ => p.sql.clone(),
    }
}

fn listed(pieces: &[Piece]) -> String {
    pieces.iter().map(|p| p.sql.as_str()).collect::<Vec<_>>().join(", ")
}
