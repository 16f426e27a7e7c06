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
        tables::{self, Table},
    },
};

pub(super) async fn exchange_rows(
    session: &Session,
    doing: &str,
    rebuild: &Rebuild,
) -> Result<Swapped> {
    let (live, beside) = (Table::new(&rebuild.model), Table::new(&rebuild.shadow));
    let part = rebuild.part();
    let mut swapped = Swapped::default();
    for (kept, rebuilt) in live.shapes().zip(beside.shapes()) {
        let Exchange { add, is_done, remove } = exchange(kept, rebuilt, part.as_deref());
        swapped.rows_written += session.execute(doing, &add, &[]).await?;
        if !session.query(doing, &is_done, &[]).await?[0].get::<_, bool>(0) {
            swapped.rows_removed += session.execute(doing, &remove, &[]).await?;
        }
    }
    drop_tables(session, doing, &beside.model).await?;
    Ok(swapped)
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
    drop_tables(session, doing, &live.model).await?;
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

/// Whatever a definition of the model has made; how many.
pub(super) async fn drop_tables(session: &Session, doing: &str, model: &str) -> Result<usize> {
    let sql = include_str!("../../../sql/warehouse/tables_of_model.sql");
    let found = session.query(doing, sql, &[&model]).await?;
    for row in &found {
        let name: String = row.get(0);
        let dropped = session.batch(doing, &format!("DROP TABLE {}", tables::quoted(&name))).await;
        dropped.map_err(|error| match error.kind {
            Kind::Halt => Error::halt(format!(
                "{doing}: table {name} cannot be dropped. Views of your own over it are to be dropped first, and made \
                 again afterwards: its columns are others then"
            ))
            .because(error),
            Kind::Retry | Kind::Unknown | Kind::Fenced | Kind::Config => error,
        })?;
    }
    Ok(found.len())
}
