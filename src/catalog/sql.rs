//! The SQL of a model, taken apart.
