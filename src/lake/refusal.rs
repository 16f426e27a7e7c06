//! What a refusal of a store or a disk means for the caller: whether it passes, and what to do.
//!
//! Owns: the two tables, of S3's codes and statuses and of a file system's errors. Does not own:
//! how an answer is fetched (`store`, `directory`). Pure, so that each row has a test.
//!
//! While the service runs, whatever can be mended outside of this process (rights, the bucket, the
//! disk, the clock) is `Retry`: nothing is lost meanwhile, `/readyz` tells what to do, and nobody
//! has to restart anything. `Halt` is what only another setting or another highwater would mend. At
//! the start both are `Config`: somebody is there to read it. Nothing here is ever a reject: a record
//! is judged by what it is, never by how a service feels.

use crate::error::{
    Kind::{self, Config, Halt, Retry},
    UNTRUSTED, UNTRUSTED_REMEDY,
};
use std::io::ErrorKind;

/// What was being done when it was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the first partition is taken.
    Starting,
    Running,
    /// An upload is put or ended; its cut is not committed and may begin anew with another upload.
    Staging,
}

/// What comes next, and what a person can do about it; None: nothing but wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub kind: Kind,
    pub remedy: Option<&'static str>,
}

/// What stands for the sentence on credentials, which every kind of store has of its own.
pub const ACCESS: &str = "access is denied";

struct Row {
    /// Of S3's `<Code>`, or [`UNTRUSTED`]; empty: any.
    codes: &'static [&'static str],
    /// Of the HTTP status, from and to; (0, 0): any.
    status: (u16, u16),
    running: Kind,
    staging: Kind,
    remedy: Option<&'static str>,
}

const ANY: (u16, u16) = (0, 0);

const fn row(
    codes: &'static [&'static str],
    status: (u16, u16),
    running: Kind,
    staging: Kind,
    remedy: Option<&'static str>,
) -> Row {
    Row { codes, status, running, staging, remedy }
}

/// The first that fits, counts. Codes first: they say more than statuses.
const SERVICE: [Row; 16] = [
    row(
        &["NoSuchBucket"],
        ANY,
        Retry,
        Retry,
        Some("the bucket does not exist, create it or correct --lake"),
    ),
    row(
        &["RequestTimeTooSkewed"],
        ANY,
        Retry,
        Retry,
        Some("this machine's clock is wrong, set it"),
    ),
    row(
        &[
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            "IllegalLocationConstraintException",
        ],
        ANY,
        Halt,
        Halt,
        Some("the bucket is in another region, set AWS_REGION"),
    ),
    row(
        &[
            "ExpiredToken",
            "InvalidToken",
            "TokenRefreshRequired",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
        ],
        ANY,
        Retry,
        Retry,
        Some(ACCESS),
    ),
    row(&[UNTRUSTED], ANY, Retry, Retry, Some(UNTRUSTED_REMEDY)),
    row(
        &["XMinioStorageFull", "QuotaExceeded"],
        ANY,
        Retry,
        Retry,
        Some("the store is full, free some space"),
    ),
    // A body that did not arrive in time: said with status 400.
    row(&["RequestTimeout", "OperationAborted"], ANY, Retry, Retry, None),
    // The store has lost parts, or another request ended the upload: another upload has them.
    row(&["NoSuchUpload", "InvalidPart", "InvalidPartOrder", "BadDigest"], ANY, Halt, Retry, None),
    row(
        &["EntityTooSmall", "EntityTooLarge"],
        ANY,
        Halt,
        Halt,
        Some("the store has other limits on parts than S3"),
    ),
    row(&[], (301, 308), Halt, Halt, Some("the bucket is in another region, set AWS_REGION")),
    row(&[], (401, 401), Retry, Retry, Some(ACCESS)),
    // Also what MinIO says in the instant that it cleans up an emptied folder that is written to.
    row(&[], (403, 403), Retry, Retry, Some(ACCESS)),
    row(&[], (404, 404), Halt, Retry, Some("it is not there")),
    // A timeout, a conflict with another request, too many of them.
    row(&[], (408, 409), Retry, Retry, None),
    row(&[], (429, 429), Retry, Retry, None),
    row(&[], (501, 501), Halt, Halt, Some("the store cannot do this")),
];

/// Of an HTTP service. `status` is None where none answered: refused, cut off, timed out, TLS.
pub fn of_service(status: Option<u16>, code: Option<&str>, phase: Phase) -> Verdict {
    let (status, code) = (status.unwrap_or(0), code.unwrap_or(""));
    let fits = |row: &&Row| match row.codes {
        [] => (row.status.0..=row.status.1).contains(&status),
        codes => codes.contains(&code),
    };
    let (running, staging, remedy) = match SERVICE.iter().find(fits) {
        Some(row) => (row.running, row.staging, row.remedy),
        None if (400..500).contains(&status) => (Halt, Halt, Some("the store refuses the request")),
        // 5xx, what is no HTTP at all, and 200 with an error in its body.
        None => (Retry, Retry, None),
    };
    verdict(running, staging, remedy, phase)
}

/// Of a file system. None of its operations does half of what it says, so what may pass is `Retry`.
pub fn of_disk(error: ErrorKind, phase: Phase) -> Verdict {
    let (kind, remedy) = match error {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (Retry, Some("the lake's disk is full, free some space"))
        }
        ErrorKind::PermissionDenied => (
            Retry,
            Some(
                "this user may not write there, give it the directory or name another with --lake",
            ),
        ),
        ErrorKind::ReadOnlyFilesystem => {
            (Retry, Some("the file system is read-only, mount it for writing"))
        }
        ErrorKind::NotFound => {
            (Retry, Some("the lake's directory is not there, mount it or bring it back"))
        }
        ErrorKind::CrossesDevices => {
            (Halt, Some("the lake must be one file system, nothing mounted below its root"))
        }
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            (Halt, Some("a file is where a directory should be, or the other way round"))
        }
        ErrorKind::FileTooLarge | ErrorKind::InvalidFilename => {
            (Halt, Some("the file system cannot hold this file"))
        }
        // EIO, a stale handle of NFS, too many open files, interrupted, timed out.
        _ => (Retry, None),
    };
    verdict(kind, kind, remedy, phase)
}

fn verdict(running: Kind, staging: Kind, remedy: Option<&'static str>, phase: Phase) -> Verdict {
    let kind = match (phase, running) {
        (Phase::Running, kind) => kind,
        (Phase::Staging, _) => staging,
        (Phase::Starting, Halt) => Config,
        // Who has a remedy at the start has somebody to read it; a full disk is not a setting.
        (Phase::Starting, kind) => match remedy {
            Some(remedy) if !remedy.contains(" full,") => Config,
            Some(_) | None => kind,
        },
    };
    Verdict { kind, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_and_code_says_what_to_do_next() {
        let rows: &[(Option<u16>, &str, Kind, Kind, Kind)] = &[
            // status, code, running, staging, starting
            (Some(404), "NoSuchBucket", Retry, Retry, Config),
            (Some(403), "RequestTimeTooSkewed", Retry, Retry, Config),
            (Some(400), "AuthorizationHeaderMalformed", Halt, Halt, Config),
            (Some(301), "PermanentRedirect", Halt, Halt, Config),
            (Some(307), "", Halt, Halt, Config),
            (Some(400), "ExpiredToken", Retry, Retry, Config),
            (Some(403), "InvalidAccessKeyId", Retry, Retry, Config),
            (Some(403), "SignatureDoesNotMatch", Retry, Retry, Config),
            (Some(403), "AccessDenied", Retry, Retry, Config),
            (Some(403), "", Retry, Retry, Config),
            (Some(401), "", Retry, Retry, Config),
            (Some(507), "XMinioStorageFull", Retry, Retry, Retry),
            (Some(400), "RequestTimeout", Retry, Retry, Retry),
            (Some(409), "OperationAborted", Retry, Retry, Retry),
            (Some(404), "NoSuchUpload", Halt, Retry, Config),
            (Some(404), "NoSuchKey", Halt, Retry, Config),
            (Some(404), "", Halt, Retry, Config),
            (Some(400), "InvalidPart", Halt, Retry, Config),
            (Some(400), "InvalidPartOrder", Halt, Retry, Config),
            (Some(400), "BadDigest", Halt, Retry, Config),
            (Some(400), "EntityTooSmall", Halt, Halt, Config),
            (Some(400), "EntityTooLarge", Halt, Halt, Config),
            (Some(400), "InvalidRequest", Halt, Halt, Config),
            (Some(412), "PreconditionFailed", Halt, Halt, Config),
            (Some(408), "", Retry, Retry, Retry),
            (Some(409), "", Retry, Retry, Retry),
            (Some(429), "", Retry, Retry, Retry),
            (Some(500), "InternalError", Retry, Retry, Retry),
            (Some(501), "NotImplemented", Halt, Halt, Config),
            (Some(502), "", Retry, Retry, Retry),
            (Some(503), "SlowDown", Retry, Retry, Retry),
            (None, UNTRUSTED, Retry, Retry, Config),
            (None, "", Retry, Retry, Retry),
            (None, "SlowDown", Retry, Retry, Retry),
        ];
        for &(status, code, running, staging, starting) in rows {
            for (phase, expected) in
                [(Phase::Running, running), (Phase::Staging, staging), (Phase::Starting, starting)]
            {
                let found = of_service(status, Some(code).filter(|c| !c.is_empty()), phase);
                assert_eq!(found.kind, expected, "{status:?} {code} {phase:?}");
            }
        }
        for row in &SERVICE {
            let named =
                |(status, code, ..): &&(Option<u16>, &str, Kind, Kind, Kind)| match row.codes {
                    [] => status.is_some_and(|s| (row.status.0..=row.status.1).contains(&s)),
                    codes => codes.contains(code),
                };
            assert!(rows.iter().any(|r| named(&r)), "{:?} {:?} has no case", row.codes, row.status);
        }
    }

    #[test]
    fn each_error_of_a_disk_says_what_to_do_next() {
        for (number, running, starting, words) in [
            (libc::ENOSPC, Retry, Retry, "free some space"),
            (libc::EDQUOT, Retry, Retry, "free some space"),
            (libc::EACCES, Retry, Config, "may not write"),
            (libc::EPERM, Retry, Config, "may not write"),
            (libc::EROFS, Retry, Config, "mount it for writing"),
            (libc::ENOENT, Retry, Config, "bring it back"),
            (libc::EXDEV, Halt, Config, "one file system"),
            (libc::EEXIST, Halt, Config, "a file is where"),
            (libc::ENOTDIR, Halt, Config, "a file is where"),
            (libc::EISDIR, Halt, Config, "a file is where"),
            (libc::EFBIG, Halt, Config, "cannot hold"),
            (libc::ENAMETOOLONG, Halt, Config, "cannot hold"),
            (libc::EIO, Retry, Retry, ""),
            (libc::ESTALE, Retry, Retry, ""),
            (libc::EMFILE, Retry, Retry, ""),
            (libc::EINTR, Retry, Retry, ""),
            (libc::ETIMEDOUT, Retry, Retry, ""),
        ] {
            let error = std::io::Error::from_raw_os_error(number);
            for (phase, expected) in
                [(Phase::Running, running), (Phase::Staging, running), (Phase::Starting, starting)]
            {
                let found = of_disk(error.kind(), phase);
                assert_eq!(found.kind, expected, "{error} {phase:?}");
                assert!(found.remedy.unwrap_or_default().contains(words), "{error}: {found:?}");
                assert_eq!(found.remedy.is_none(), words.is_empty(), "{error}: {found:?}");
            }
        }
    }
}
