//! The stage as a whole: declarations in, a catalog or all mistakes out.

use super::*;
use std::path::Path;

#[test]
fn the_repositorys_own_topics_and_models_have_no_mistake() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let catalog = match load(&root.join("topics"), &root.join("sql/models")) {
        Ok(catalog) => catalog,
        Err(mistakes) => {
            panic!("{}", mistakes.iter().map(|m| format!("{m}\n")).collect::<String>())
        }
    };
    println!("{}", describe(&catalog));
}
