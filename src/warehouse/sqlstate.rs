//! What an SQLSTATE means for the caller: whether the transaction happened, and what comes next.
//!
//! Owns: the table of classes. Does not own: how an error is fetched or worded (`postgres`).
//!
//! Before COMMIT is sent, nothing can have happened, so only the cause matters. While COMMIT is in
//! flight, an answer of the server is still an answer, except where it says that the session died:
//! then the transaction may have been committed a moment before (as when a shutdown cuts short the
//! wait for a synchronous standby).

use crate::error::Kind;

/// How far a transaction had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    BeforeCommit,
    Committing,
}

/// `sqlstate` is None where no server answered: the connection was lost, or never made.
pub fn kind(sqlstate: Option<&str>, phase: Phase) -> Kind {
    let lost = match sqlstate {
        None => true,
        Some(state) => state.starts_with("08") || state.starts_with("57P") || state == "25P03",
    };
    match (lost, phase) {
        (true, Phase::Committing) => Kind::Unknown,
        (true, Phase::BeforeCommit) => Kind::Retry,
        (false, _) => answered(sqlstate.unwrap_or_default()),
    }
}

fn answered(state: &str) -> Kind {
    match (state.get(..2).unwrap_or_default(), state) {
        // Not now: a lock timeout, an object in use, a database that takes no connections for a
        // while, a server that has become a read-only standby.
        (_, "55P03" | "55006" | "55000" | "25006") => Kind::Retry,
        // Rolled back in favour of another, out of resources, an operator's word, the system below.
        ("40" | "53" | "57" | "58", _) => Kind::Retry,
        // Credentials; no such database.
        ("28" | "3D", _) => Kind::Config,
        // Data, constraints, missing tables or rights, and whatever else will not pass by itself.
        _ => Kind::Halt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{Config, Halt, Retry, Unknown};

    #[test]
    fn each_sqlstate_class_says_what_to_do_next() {
        for (state, before, committing) in [
            (None, Retry, Unknown),
            (Some("08006"), Retry, Unknown),
            (Some("57P01"), Retry, Unknown), // admin_shutdown
            (Some("57P02"), Retry, Unknown), // crash_shutdown
            (Some("57P03"), Retry, Unknown), // cannot_connect_now
            (Some("25P03"), Retry, Unknown), // idle_in_transaction_session_timeout
            (Some("57014"), Retry, Retry),   // query_canceled: statement_timeout
            (Some("40001"), Retry, Retry),   // serialization_failure
            (Some("40P01"), Retry, Retry),   // deadlock_detected
            (Some("53100"), Retry, Retry),   // disk_full
            (Some("53300"), Retry, Retry),   // too_many_connections
            (Some("55P03"), Retry, Retry),   // lock_not_available
            (Some("55006"), Retry, Retry),   // object_in_use
            (Some("55000"), Retry, Retry),   // not in the state: ALLOW_CONNECTIONS false
            (Some("58030"), Retry, Retry),   // io_error
            (Some("25006"), Retry, Retry),   // read_only_sql_transaction: a standby
            (Some("22003"), Halt, Halt),     // numeric_value_out_of_range
            (Some("22021"), Halt, Halt),     // character_not_in_repertoire: NUL in text
            (Some("23505"), Halt, Halt),     // unique_violation
            (Some("23514"), Halt, Halt),     // check_violation: I-3
            (Some("42P01"), Halt, Halt),     // undefined_table
            (Some("42501"), Halt, Halt),     // insufficient_privilege
            (Some("54000"), Halt, Halt),     // program_limit_exceeded
            (Some("XX001"), Halt, Halt),     // data_corrupted
            (Some("28P01"), Config, Config), // invalid_password
            (Some("3D000"), Config, Config), // no such database
            (Some(""), Halt, Halt),
        ] {
            assert_eq!(kind(state, Phase::BeforeCommit), before, "{state:?} before COMMIT");
            assert_eq!(kind(state, Phase::Committing), committing, "{state:?} in COMMIT");
        }
    }
}
