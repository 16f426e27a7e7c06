//! The swap of an output that was not there: tables and marks of its rebuild become the live ones.
//!
//! Owns: B-7. Does not own: where it begins (`ops::replay`), locks and comparing of marks (`rebuild`).
//!
//! SUBTLE: whoever runs the model makes its tables and its marks, and fills it from the beginning by itself. So the
//! swap looks for marks under the locks of the schema and of the topic, which both are made under: there are some, and
//! the swap is refused; or there are none until COMMIT, and whoever takes the partitions next finds those of the swap.
//! Tables without marks are empty (`schema` refuses others), and are replaced.

use super::{Rebuild, Swapped, contents::replace, stood_still, take_over};
use crate::{
    error::{Error, Result},
    record::Fates,
    warehouse::{
        MarkRow, Warehouse,
        postgres::Session,
        tables::{self, Table},
    },
};

impl Warehouse {
    /// # Errors
    /// `Fenced`: it has marks, so a service fills it. `Config`: a table of its name holds rows.
    pub(super) async fn refuse_what_is_there(&self, rebuild: &Rebuild, doing: &str) -> Result<()> {
        let session = self.begin(doing).await?;
        let marks = super::marks_of(&session, doing, &rebuild.model.topic).await?;
        refuse_marks(doing, rebuild, &marks)?;
        refuse_rows(&session, doing, rebuild).await?;
        session.roll_back(doing).await
    }
}

fn refuse_marks(doing: &str, rebuild: &Rebuild, marks: &[MarkRow]) -> Result<()> {
    let output = rebuild.output();
    if marks.iter().all(|m| m.output != output) {
        return Ok(());
    }
    Err(Error::fenced(format!(
        "{doing}: a service that runs {output} has begun to fill it by itself, and goes on with it. If there is a \
         rebuild, `highwater replay {output} --abort` drops it"
    )))
}

async fn refuse_rows(session: &Session, doing: &str, rebuild: &Rebuild) -> Result<()> {
    for shape in Table::new(&rebuild.model).shapes() {
        let name = &shape.table;
        let sql = include_str!("../../../sql/warehouse/read_relation.sql");
        if session.query(doing, sql, &[name]).await?.is_empty() {
            continue;
        }
        let sql = format!("SELECT EXISTS (SELECT FROM {})", tables::quoted(name));
        if session.query(doing, &sql, &[]).await?[0].get::<_, bool>(0) {
            return Err(Error::config(format!(
                "{doing}: {name} holds rows, but no mark says which offsets of {} they come from. Drop it, or give the \
                 model another name",
                rebuild.model.topic
            )));
        }
    }
    Ok(())
}

/// The leader's marks and the rebuild's are locked, and stand at the same offsets.
pub(super) async fn swap(
    session: Session,
    doing: &str,
    rebuild: &Rebuild,
    partitions: &[i32],
    marks: &[MarkRow],
) -> Result<Swapped> {
    refuse_marks(doing, rebuild, marks)?;
    refuse_rows(&session, doing, rebuild).await?;
    let mut after = Fates::default();
    let beside = rebuild.beside();
    marks.iter().filter(|m| m.output == beside).for_each(|m| after += m.mark.fates);
    let swapped = replace(&session, doing, rebuild).await?;
    let topic: &str = &rebuild.model.topic;
    let (output, shadow) = (rebuild.output().to_string(), beside.to_string());
    let sql = include_str!("../../../sql/warehouse/swap_in_new_marks.sql");
    let moved = session.execute(doing, sql, &[&topic, &output, &shadow]).await?;
    take_over(&session, doing, rebuild).await?;
    stood_still(&session, doing, rebuild, partitions, moved).await?;
    session.commit(doing).await?;
    Ok(Swapped { after, ..swapped })
}
