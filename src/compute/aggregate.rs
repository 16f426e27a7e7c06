//! GROUP BY over a cut: an accumulator of DataFusion's per part, fed batch by batch.
//!
//! Owns: the delta's columns. Does not own: which group a row is of (`groups`), what is kept of each group
//! (`parts`), merging deltas with stored rows, windows as a notion (`event_time`).

use super::{
    Delta,
    combine::Combined,
    groups::Groups,
    parts::{Open, OpenPart, Rows},
    plan::{Input, Plan},
    sessions::Sessions,
    sketch,
};
use crate::{
    catalog::{Aggregate, Estimate, Late, Model, Role, types::timestamp},
    error::{Error, Result},
    event_time::{Verdict, Windows},
};
use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array},
    compute::{SortColumn, lexsort_to_indices, take},
    datatypes::{Field, Schema, SchemaRef, TimestampMicrosecondType},
    error::ArrowError,
};
use std::sync::Arc;

/// Rows that are made of panes at a time.
const COMBINED_ROWS: usize = 65_536;

pub struct Deltas {
    windows: Option<Windows>,
    /// None but of sessions.
    sessions: Option<Sessions>,
    /// Whether rows come with windows that are final for them and must not take them.
    drops: bool,
    keys: SchemaRef,
    groups: Groups,
    parts: Vec<OpenPart>,
    /// The delta's columns: where each comes from.
    layout: Vec<From>,
    schema: SchemaRef,
    /// Group of each row of the last batch; kept for its memory.
    indexes: Vec<usize>,
}

/// Where a column of the delta comes from.
#[derive(Clone, Copy)]
enum From {
    WindowStart,
    WindowEnd,
    Key(usize),
    /// A part and a column of it.
    Part(usize, usize),
    /// Read off a part that is a sketch.
    Estimate(usize, Estimate),
}

/// The groups of a delta, unsorted: keys, after the window's start where there is one, and parts.
struct Grouped {
    keys: Vec<ArrayRef>,
    /// Of windows.
    ends: Option<ArrayRef>,
    /// Columns of each.
    parts: Vec<Vec<ArrayRef>>,
}

fn groups(keys: &Schema, before: usize) -> Result<Groups, ArrowError> {
    let instants = (0..before).map(|i| Arc::new(Field::new(format!("_{i}"), timestamp(), false)));
    let fields: Vec<_> = instants.chain(keys.fields().iter().cloned()).collect();
    Groups::new(&Schema::new(fields))
}

fn instants(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

impl Deltas {
    pub fn new(model: &Model, aggregate: &Aggregate, plan: &Plan) -> Result<Self> {
        let refused = |e| Error::config(format!("plan model {}", model.name)).because(e);
        let keys = aggregate.keys.iter().map(|k| Field::new(&k.name, k.pg.arrow(), true));
        let keys = Schema::new(keys.collect::<Vec<_>>());
        let windows = aggregate.window.as_ref().map(|w| Windows::new(&w.shape));
        let groups = groups(&keys, before(windows.as_ref())).map_err(|e| refused(e.into()))?;
        let mut next = aggregate.keys.len();
        let mut parts = Vec::new();
        for part in &aggregate.parts {
            let args = (next..next + part.args.len()).map(|i| plan.type_of(i));
            let open = Open::new(part, args.collect::<Result<_>>()?).map_err(refused)?;
            next += part.args.len() + usize::from(part.filter.is_some());
            parts.push(OpenPart { open, args: part.args.len(), has_filter: part.filter.is_some() });
        }
        let (layout, fields) = layout(model, aggregate);
        let sessions = match &windows {
            Some(Windows::Session(gap)) => Some(Sessions::new(*gap)),
            Some(Windows::Tumble(_) | Windows::Hop(_)) | None => None,
        };
        Ok(Self {
            windows,
            sessions,
            drops: aggregate.window.as_ref().is_some_and(|w| w.late != Late::Amend),
            keys: Arc::new(keys),
            groups,
            parts,
            layout,
            schema: Arc::new(Schema::new(fields)),
            indexes: Vec::new(),
        })
    }

    /// Adds evaluated rows; `verdicts` go by the rows of the batch that they were.
    pub fn add(&mut self, input: &Input<'_>, verdicts: &[Verdict]) -> Result<()> {
        if input.rows == 0 {
            return Ok(());
        }
        let failed = |e| Error::halt("aggregate a batch").because(e);
        let key_count = self.keys.fields().len();
        let mut keys = Vec::with_capacity(key_count + 2);
        let times = || input.event_times.iter();
        match &mut self.windows {
            None | Some(Windows::Session(_)) => {}
            Some(Windows::Tumble(edges)) => {
                keys.push(instants(times().map(|t| edges.around(t.0).0)));
            }
            Some(Windows::Hop(hops)) => {
                keys.push(instants(times().map(|t| hops.pane(t.0))));
                // Mostly the same for every row: no window of theirs is final.
                let verdicts = if self.drops { verdicts } else { &[] };
                let from = (0..input.rows).map(|row| match verdicts.get(input.origin_of(row)) {
                    Some(Verdict::From(start)) => start.0,
                    Some(Verdict::InTime | Verdict::Late) | None => i64::MIN,
                });
                keys.push(instants(from));
            }
        }
        keys.extend_from_slice(&input.columns[..key_count]);
        match keys.is_empty() {
            true => self.indexes = vec![0; input.rows],
            false => self.groups.intern(&keys, &mut self.indexes).map_err(|e| failed(e.into()))?,
        }
        let groups = match &mut self.sessions {
            None => self.groups.len(),
            // From here on a row's group is its piece of a session of its key.
            Some(sessions) => {
                for (index, t) in self.indexes.iter_mut().zip(input.event_times.iter()) {
                    *index = sessions.piece(*index, t.0);
                }
                sessions.pieces()
            }
        };
        let mut next = key_count;
        for part in &mut self.parts {
            let mut args = &input.columns[next..next + part.args];
            if args.is_empty() {
                // count(*): any column without NULLs will do.
                args = std::slice::from_ref(&input.offsets);
            }
            next += part.args;
            let filter = part.has_filter.then(|| {
                next += 1;
                input.columns[next - 1].as_boolean()
            });
            let rows = Rows { args, filter, groups: &self.indexes, count: groups, input };
            part.open.add(&rows).map_err(failed)?;
        }
        Ok(())
    }

    pub fn memory(&self) -> usize {
        let parts = self.parts.iter().map(|p| p.open.memory()).sum::<usize>();
        self.groups.memory() + parts + self.sessions.as_ref().map_or(0, Sessions::memory)
    }

    /// The cut's delta: one row per group, sorted by key.
    pub fn finish(&mut self) -> Result<Delta> {
        let pieces = self.sessions.as_ref().map_or(0, Sessions::pieces);
        if self.groups.is_empty() && pieces == 0 {
            return Ok(Delta::of(RecordBatch::new_empty(self.schema.clone())));
        }
        let Grouped { keys, ends, parts } = match self.windows {
            Some(Windows::Hop(_)) => self.windows_of_panes()?,
            Some(Windows::Session(_)) => self.sessions_of_pieces()?,
            Some(Windows::Tumble(_)) | None => self.as_they_are()?,
        };
        let sorted = |e| Error::halt("sort a delta by key").because(e);
        let by_key: Vec<_> = keys
            .iter()
            .map(|values| SortColumn { values: values.clone(), options: None })
            .collect();
        let order = lexsort_to_indices(&by_key, None).map_err(sorted)?;
        let in_order = |array: &ArrayRef| take(array, &order, None).map_err(sorted);
        let keys = keys.iter().map(in_order).collect::<Result<Vec<_>>>()?;
        let first_key = usize::from(self.windows.is_some());
        let columns = self.layout.iter().map(|from| match from {
            From::WindowStart => Ok(keys[0].clone()),
            From::WindowEnd => in_order(ends.as_ref().expect("an end is of a window")),
            From::Key(i) => Ok(keys[first_key + i].clone()),
            From::Part(part, column) => in_order(&parts[*part][*column]),
            From::Estimate(part, estimate) => {
                in_order(&sketch::estimates(parts[*part][0].as_binary(), *estimate)?)
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let rows = RecordBatch::try_new(self.schema.clone(), columns)
            .map_err(|e| Error::halt("build a delta").because(e))?;
        let mut sets = Vec::new();
        for part in &mut self.parts {
            if let Open::Distinct(distinct) = &mut part.open {
                sets.push(distinct.finish(&keys, &order)?);
            }
        }
        Ok(Delta { rows, sets, changes: None })
    }

    fn emit(&mut self) -> Result<Vec<ArrayRef>> {
        self.groups.take().map_err(|e| Error::halt("finish an aggregate").because(e))
    }

    fn as_they_are(&mut self) -> Result<Grouped> {
        let failed = |e| Error::halt("finish an aggregate").because(e);
        let count = self.groups.len();
        let keys = self.emit()?;
        let ends = match &mut self.windows {
            Some(Windows::Tumble(edges)) => {
                let starts = keys[0].as_primitive::<TimestampMicrosecondType>().values();
                Some(instants(starts.iter().map(|start| edges.around(*start).1)))
            }
            Some(Windows::Hop(_) | Windows::Session(_)) | None => None,
        };
        let parts = self.parts.iter_mut().map(|p| p.open.finish(count));
        Ok(Grouped { keys, ends, parts: parts.collect::<Result<Vec<_>, _>>().map_err(failed)? })
    }

    /// Pieces that turned out to be of one session go together.
    fn sessions_of_pieces(&mut self) -> Result<Grouped> {
        let failed = |e| Error::halt("put sessions together").because(e);
        let values = match self.keys.fields().is_empty() {
            true => Vec::new(),
            false => self.emit()?,
        };
        let sessions = self.sessions.as_mut().expect("pieces are of sessions").take();
        let mut combined = Combined::new(&mut self.parts)?;
        let sources = UInt32Array::from_iter_values(0..sessions.session_of_piece.len() as u32);
        combined.add(&sources, &sessions.session_of_piece, sessions.keys.len())?;
        let rows = UInt32Array::from(sessions.keys);
        let mut keys = vec![instants(sessions.starts)];
        for key in &values {
            keys.push(take(key, &rows, None).map_err(failed)?);
        }
        Ok(Grouped { keys, ends: Some(instants(sessions.ends)), parts: combined.finish()? })
    }

    /// Each pane's group goes into the windows that the pane is of, less those that were final for
    /// its rows. Once per pane, key and window, however many rows there were.
    fn windows_of_panes(&mut self) -> Result<Grouped> {
        let failed = |e| Error::halt("put panes together").because(e);
        let panes = self.emit()?;
        let mut combined = Combined::new(&mut self.parts)?;
        let mut windows = groups(&self.keys, 1).map_err(failed)?;
        let Some(Windows::Hop(hops)) = &mut self.windows else { unreachable!("panes are of hop") };
        let values = |i: usize| panes[i].as_primitive::<TimestampMicrosecondType>().values();
        let (mut sources, mut starts): (Vec<u32>, Vec<i64>) = (Vec::new(), Vec::new());
        let count = panes[0].len();
        for (source, (pane, from)) in values(0).iter().zip(values(1)).enumerate() {
            for (start, _) in hops.of(*pane).iter().filter(|(start, _)| start >= from) {
                sources.push(source as u32);
                starts.push(*start);
            }
            if sources.len() < COMBINED_ROWS && source + 1 < count {
                continue;
            }
            let rows = UInt32Array::from(std::mem::take(&mut sources));
            let mut keys = vec![instants(std::mem::take(&mut starts))];
            for key in &panes[2..] {
                keys.push(take(key, &rows, None).map_err(failed)?);
            }
            windows.intern(&keys, &mut self.indexes).map_err(failed)?;
            combined.add(&rows, &self.indexes, windows.len())?;
        }
        let keys = windows.take().map_err(failed)?;
        let starts = keys[0].as_primitive::<TimestampMicrosecondType>().values();
        let ends = Some(instants(starts.iter().map(|start| hops.end(*start))));
        Ok(Grouped { keys, ends, parts: combined.finish()? })
    }
}

/// Instants that stand before the keys in a group.
fn before(windows: Option<&Windows>) -> usize {
    match windows {
        // Sessions are found within their key.
        None | Some(Windows::Session(_)) => 0,
        // The window's start.
        Some(Windows::Tumble(_)) => 1,
        // The pane's, and that of the first window that takes the row.
        Some(Windows::Hop(_)) => 2,
    }
}

fn layout(model: &Model, aggregate: &Aggregate) -> (Vec<From>, Vec<Field>) {
    let part = |name: &str| {
        aggregate.parts.iter().enumerate().find_map(|(i, part)| {
            let column = part.columns.iter().position(|c| c.name == name)?;
            Some((From::Part(i, column), part.columns[column].arrow.clone()))
        })
    };
    let mut layout = Vec::new();
    let mut fields = Vec::new();
    for column in model.columns.iter().filter(|c| c.role.travels()) {
        let key = || aggregate.keys.iter().position(|k| k.name == column.name);
        let found = match &column.role {
            Role::WindowStart => Some((From::WindowStart, timestamp())),
            Role::WindowEnd => Some((From::WindowEnd, timestamp())),
            Role::Key => key().map(|i| (From::Key(i), column.pg.arrow())),
            Role::Part(_) => part(&column.name),
            Role::Estimate(sketch, estimate) => part(sketch).and_then(|(from, _)| match from {
                From::Part(i, _) => Some((From::Estimate(i, *estimate), column.pg.arrow())),
                _ => None,
            }),
            // Computed where the rows are; of row models.
            Role::Derived(_) | Role::Difference(_) | Role::Value | Role::Position => continue,
        };
        let (from, data_type) = found.expect("catalog gives every key and part its column");
        layout.push(from);
        fields.push(Field::new(&column.name, data_type, true));
    }
    (layout, fields)
}
