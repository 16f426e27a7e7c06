//! Watermarks, lateness and windows as arithmetic on [`EventTime`](crate::record::EventTime). No clock.
