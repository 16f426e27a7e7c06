//! The one error of the product: what went wrong, and what the caller does next.
//!
//! Owns: [`Error`] and its four kinds. Does not own: rejects (a bad record is a value, see
//! `decode`) nor the mistakes in a user's files (a list, see `catalog::Mistake`).

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What rustls says, somewhere among the causes, of a certificate that it does not trust.
pub const UNTRUSTED: &str = "invalid peer certificate";
/// Where the system's roots are all that is asked.
pub const UNTRUSTED_REMEDY: &str =
    "its certificate is not trusted: SSL_CERT_FILE names the file of who signed it";

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It certainly did not happen: a service is away. Wait, then do it again.
    Retry,
    /// It may have happened. Read back, then decide.
    Unknown,
    /// Somebody else owns it now. Drop it; clean up nothing.
    Fenced,
    /// It will not get better by itself. Stop with a sentence.
    Halt,
    /// The settings or files given are wrong. Stop before starting.
    Config,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Retry, Self::Unknown, Self::Fenced, Self::Halt, Self::Config];

    /// As in labels of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Unknown => "unknown",
            Self::Fenced => "fenced",
            Self::Halt => "halt",
            Self::Config => "config",
        }
    }
}

/// `context` is lower case and says what we were doing, values last.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    pub context: String,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }
    pub fn retry(context: impl Into<String>) -> Self {
        Self::new(Kind::Retry, context)
    }
    pub fn unknown(context: impl Into<String>) -> Self {
        Self::new(Kind::Unknown, context)
    }
    pub fn fenced(context: impl Into<String>) -> Self {
        Self::new(Kind::Fenced, context)
    }
    pub fn halt(context: impl Into<String>) -> Self {
        Self::new(Kind::Halt, context)
    }
    pub fn config(context: impl Into<String>) -> Self {
        Self::new(Kind::Config, context)
    }
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
    /// The process's exit code: 1 found wrong, 2 bad configuration, 3 a service out of reach.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Retry | Kind::Unknown => 3,
            Kind::Fenced | Kind::Halt => 1,
            Kind::Config => 2,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let mut next = self.source.as_deref().map(|e| e as &dyn std::error::Error);
        // Many libraries repeat their source in their own text: it is told once.
        let mut told = String::new();
        while let Some(e) = next {
            let text = e.to_string();
            if !told.contains(&text) {
                write!(f, ": {text}")?;
                told = text;
            }
            next = e.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
