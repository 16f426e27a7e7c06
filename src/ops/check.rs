//! `highwater check`: topics and models, offline.

use super::load;
use crate::{catalog, config::Config, error::Result};

/// Prints every mistake, or what each model will keep.
pub fn check(config: &Config) -> Result<()> {
    let catalog = load(config)?;
    print!("{}", catalog::describe(&catalog));
    Ok(())
}
