//! Migrations and tables as they are found.

use super::*;
use crate::error::Kind;

#[tokio::test(flavor = "multi_thread")]
async fn migrating_twice_or_at_the_same_time_is_migrating_once() {
    let Some(database) = Database::plain().await else { return };
    database.warehouse.query_text("DROP SCHEMA highwater CASCADE").await.unwrap();
    let models: Vec<_> =
        [aggregate("a"), global("b"), latest("c"), append("d")].map(Arc::new).to_vec();
    let start = || {
        let (url, models) = (database.url.clone(), models.clone());
        tokio::spawn(async move {
            let warehouse = Warehouse::connect(&url, &WarehouseSettings::default()).await.unwrap();
            warehouse.migrate().await.unwrap();
            warehouse.ensure_tables(&models).await.unwrap();
        })
    };
    for process in (0..4).map(|_| start()).collect::<Vec<_>>() {
        process.await.unwrap();
    }
    let found = read(&database.warehouse, "SELECT count(*) FROM highwater.migrations").await;
    let files = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations");
    assert_eq!(found, [std::fs::read_dir(files).unwrap().count().to_string()]);
    // What this process makes is what it finds the next time.
    database.warehouse.ensure_tables(&models).await.unwrap();
    let sql = "SELECT obj_description('a'::regclass)";
    let comment = read(&database.warehouse, sql).await.remove(0);
    assert!(comment.starts_with("highwater model a, definition "), "{comment}");
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_changed_stops_the_start() {
    let Some(database) = Database::plain().await else { return };
    let sql = "UPDATE highwater.migrations SET checksum = 'x' WHERE name = '0001_marks'";
    database.warehouse.query_text(sql).await.unwrap();
    let error = database.warehouse.migrate().await.unwrap_err();
    assert!(error.kind == Kind::Config && error.context.contains("0001_marks"), "{error}");
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_filled_by_another_definition_is_not_gone_on_with() {
    let Some(database) = Database::plain().await else { return };
    let first = aggregate("taps_5m");
    let changed = Model { declaration: "WHERE mode = 'bus'".into(), ..first.clone() };
    let warehouse = &database.warehouse;
    warehouse.ensure_tables(&[Arc::new(first)]).await.unwrap();
    let error = warehouse.ensure_tables(&[Arc::new(changed)]).await.unwrap_err();
    assert_eq!(error.kind, Kind::Config);
    assert!(error.context.contains("has changed since its table was filled"), "{error}");
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_differs_from_its_model_is_shown() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let models = [Arc::new(aggregate("taps_5m"))];
    warehouse.ensure_tables(&models).await.unwrap();
    for (change, shown) in [
        ("ADD note text", ["note", "(absent)", "text COLLATE \"default\""]),
        ("ALTER high TYPE integer", ["high", "bigint", "integer"]),
        ("DROP low", ["low", "text COLLATE \"C\"", "(absent)"]),
        ("ALTER mean DROP EXPRESSION", ["mean", "numeric GENERATED", "numeric"]),
        (
            "ALTER stop_id TYPE text COLLATE \"default\"",
            ["stop_id", "text COLLATE \"C\"", "text COLLATE \"default\""],
        ),
        (
            "DROP CONSTRAINT taps_5m_window_start_stop_id_key",
            ["(key)", "(window_start, stop_id)", "(absent)"],
        ),
    ] {
        let sql = format!("ALTER TABLE taps_5m {change}");
        warehouse.query_text(&sql).await.unwrap();
        let error = warehouse.ensure_tables(&models).await.unwrap_err();
        assert_eq!(error.kind, Kind::Config);
        // Two lines of the message are its head and its remedy; one names columns, one the change.
        let line = error.context.lines().nth(2).unwrap();
        let cells: Vec<_> = line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect();
        assert_eq!(cells, shown, "{change}: {error}");
        assert!(error.context.contains("DELETE FROM highwater.marks"), "{error}");
        warehouse.query_text("DROP TABLE taps_5m").await.unwrap();
        warehouse.ensure_tables(&models).await.unwrap();
    }
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_and_its_marks_belong_together() {
    let Some(database) = Database::plain().await else { return };
    let warehouse = &database.warehouse;
    let models = [Arc::new(global("all_taps"))];
    warehouse.ensure_tables(&models).await.unwrap();
    let output = model_output("all_taps");
    let mark = take_one(warehouse, &output, 0).await;
    let cut = cut(vec![advance(&output, 0, &mark, 2)], vec![rows_of("all_taps", taps(2))]);
    warehouse.commit(&cut).await.unwrap();
    warehouse.ensure_tables(&models).await.unwrap();

    warehouse.query_text("ALTER TABLE all_taps RENAME TO aside").await.unwrap();
    let error = warehouse.ensure_tables(&models).await.unwrap_err();
    assert!(error.kind == Kind::Config && error.context.contains("passed 2 offsets"), "{error}");
    warehouse.query_text("ALTER TABLE aside RENAME TO all_taps").await.unwrap();
    warehouse.query_text("DELETE FROM highwater.marks").await.unwrap();
    let error = warehouse.ensure_tables(&models).await.unwrap_err();
    assert!(error.kind == Kind::Config && error.context.contains("no mark says"), "{error}");
    database.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_and_a_server_out_of_reach_are_told_apart() {
    let nobody = "postgres://postgres@127.0.0.1:1/x";
    let error = Warehouse::connect(nobody, &WarehouseSettings::default()).await.map(drop);
    assert_eq!(error.unwrap_err().kind, Kind::Retry);
    let Some(database) = Database::plain().await else { return };
    let absent = database.url.replace("/hw_", "/absent_");
    let error = Warehouse::connect(&absent, &WarehouseSettings::default()).await.map(drop);
    assert_eq!(error.unwrap_err().kind, Kind::Config);
    database.end().await;
}
