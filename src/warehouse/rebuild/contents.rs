//! What becomes of the tables at a swap.
//!
//! Owns: rows exchanged, tables exchanged, tables dropped. Does not own: the transaction, marks and what goes with
//! them (`rebuild`), the text of the exchange (`exchange`).

use super::{Rebuild, Swapped};
use crate::{
    error::{Error, Kind, Result},
    warehouse::{
        exchange::{Exchange, exchange},
        finality::FinalView,
        postgres::{Row, Session},
        schema,
        tables::{self, Found, Shape, Table},
    },
};

pub(super) async fn exchange_rows(
    session: &Session,
    doing: &str,
    rebuild: &Rebuild,
) -> Result<Swapped> {
    let (live, beside) = (Table::new(&rebuild.model), Table::new(&rebuild.shadow));
    let mut swapped = Swapped::default();
    for (kept, rebuilt) in live.shapes().zip(beside.shapes()) {
        swapped += exchange_one(session, doing, rebuild, kept, rebuilt).await?;
    }
    drop_tables(session, doing, &beside.model, "").await?;
    Ok(swapped)
}

async fn exchange_one(
    session: &Session,
    doing: &str,
    rebuild: &Rebuild,
    kept: &Shape,
    rebuilt: &Shape,
) -> Result<Swapped> {
    let Exchange { add, is_done, remove } = exchange(kept, rebuilt, rebuild.part().as_deref());
    let rows_written = session.execute(doing, &add, &[]).await?;
    let rows_removed = match session.query(doing, &is_done, &[]).await?[0].get(0) {
        true => 0,
        false => session.execute(doing, &remove, &[]).await?,
    };
    Ok(Swapped { rows_written, rows_removed, ..Swapped::default() })
}

/// The live tables get the columns that they lack, and the rebuild's rows. They stay the ones that views, grants and
/// indexes of others are of. Where they are not what is wanted then, they are exchanged.
pub(super) async fn widen(session: &Session, doing: &str, rebuild: &Rebuild) -> Result<Swapped> {
    let (live, beside) = (Table::new(&rebuild.model), Table::new(&rebuild.shadow));
    let mut statements = Vec::new();
    let mut kept_tables = Vec::new();
    for ((kept, rebuilt), (_, comment)) in live.shapes().zip(beside.shapes()).zip(live.creates()) {
        let name = tables::quoted(&kept.table);
        let mut found = schema::columns_of(session, doing, &kept.table).await?;
        if found.is_empty() {
            // Of a count(DISTINCT …) that was added.
            let from = tables::quoted(&rebuilt.table);
            statements.push(format!("ALTER TABLE {from} RENAME TO {name}"));
        } else {
            let lacks = |wanted: &&Found| found.iter().all(|found| found.name != wanted.name);
            let mut lacking: Vec<Found> = kept.wanted.iter().filter(lacks).cloned().collect();
            // Computed ones see the columns before them alone.
            lacking.sort_by_key(|lacking| lacking.generated);
            let columns = &rebuild.model.columns;
            let added = lacking.iter().filter_map(|l| columns.iter().find(|c| c.name == l.name));
            let added = tables::list(added, |c| format!("ADD COLUMN {}", tables::field(c)));
            if !added.is_empty() {
                statements.push(format!("ALTER TABLE {name} {added}"));
            }
            found.extend(lacking);
            if !schema::differences(session, doing, kept, &found).await?.is_empty() {
                return replace(session, doing, rebuild).await;
            }
            kept_tables.push((kept, rebuilt));
        }
        statements.push(comment.to_owned());
    }
    for statement in statements {
        session.batch(doing, &statement).await?;
    }
    let mut swapped = Swapped::default();
    for (kept, rebuilt) in kept_tables {
        swapped += exchange_one(session, doing, rebuild, kept, rebuilt).await?;
    }
    drop_tables(session, doing, &beside.model, "").await?;
    FinalView::widen(&rebuild.model, session).await?;
    Ok(Swapped { widened: true, ..swapped })
}

/// The rebuild's tables take the names of the live ones, with their grants.
pub(super) async fn replace(session: &Session, doing: &str, rebuild: &Rebuild) -> Result<Swapped> {
    let (live, beside) = (Table::new(&rebuild.model), Table::new(&rebuild.shadow));
    let names: Vec<String> = live.shapes().map(|shape| shape.table.clone()).collect();
    let sql = include_str!("../../../sql/warehouse/read_grants.sql");
    let view = rebuild.model.final_view();
    let of_view = session.query(doing, sql, &[&vec![view.as_str()]]).await?;
    let of_tables = session.query(doing, sql, &[&names]).await?;
    // Its columns may be others now; of a model without windows there is none any more.
    if FinalView::is_there(session, doing, &view).await? {
        session.batch(doing, &format!("DROP VIEW {}", tables::quoted(&view))).await?;
    }
    let then = ", and made again afterwards: its columns are others then";
    drop_tables(session, doing, &live.model, then).await?;
    for ((kept, rebuilt), (_, comment)) in live.shapes().zip(beside.shapes()).zip(live.creates()) {
        let (from, to) = (tables::quoted(&rebuilt.table), tables::quoted(&kept.table));
        session.batch(doing, &format!("ALTER TABLE {from} RENAME TO {to}")).await?;
        session.batch(doing, comment).await?;
    }
    if let Some(view) = FinalView::of(&rebuild.model) {
        view.ensure(session).await?;
        grant(session, doing, &of_view).await?;
    }
    grant(session, doing, &of_tables).await?;
    Ok(Swapped { replaced: true, ..Swapped::default() })
}

async fn grant(session: &Session, doing: &str, grants: &[Row]) -> Result<()> {
    for row in grants {
        session.batch(doing, row.get(0)).await?;
    }
    Ok(())
}

/// Whatever a definition of the model has made; their names. `then`: what becomes of views over them.
pub(in crate::warehouse) async fn drop_tables(
    session: &Session,
    doing: &str,
    model: &str,
    then: &str,
) -> Result<Vec<String>> {
    let sql = include_str!("../../../sql/warehouse/tables_of_model.sql");
    let found = session.query(doing, sql, &[&model]).await?;
    let found: Vec<String> = found.iter().map(|row| row.get(0)).collect();
    for name in &found {
        let dropped = session.batch(doing, &format!("DROP TABLE {}", tables::quoted(name))).await;
        dropped.map_err(|error| held(doing, name, error, then))?;
    }
    Ok(found)
}

/// Something of somebody's depends on it.
pub(in crate::warehouse) fn held(doing: &str, name: &str, error: Error, then: &str) -> Error {
    match error.kind {
        Kind::Halt => Error::halt(format!(
            "{doing}: {name} cannot be dropped. Views of your own over it are to be dropped first{then}"
        ))
        .because(error),
        Kind::Retry | Kind::Unknown | Kind::Fenced | Kind::Config => error,
    }
}
