//! Which windows take an event.
//!
//! Owns: the windows of each shape. Does not own: where windows begin (`grid`).

use super::grid::Edges;
use crate::catalog::Shape;

/// The windows of one model.
#[derive(Debug, Clone)]
pub enum Windows {
    Tumble(Edges),
}

impl Windows {
    pub fn new(shape: &Shape) -> Self {
        match shape {
            Shape::Tumble(grid) => Self::Tumble(Edges::new(*grid)),
        }
    }

    /// Where the window begins that takes an event of this time.
    #[inline]
    pub fn start(&mut self, t: i64) -> i64 {
        match self {
            Self::Tumble(edges) => edges.around(t).0,
        }
    }

    /// Ends of the first and of the last window that take an event of this time.
    #[inline]
    pub fn ends(&mut self, t: i64) -> (i64, i64) {
        match self {
            Self::Tumble(edges) => {
                let (_, end) = edges.around(t);
                (end, end)
            }
        }
    }
}
