//! Why the object store did not do what it was asked.

/// Why an operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no such object. Certain.
    #[error("there is no object {key} in the object store")]
    NotFound {
        /// Its name.
        key: String,
    },
    /// Somebody else has created an object of this name, with other content. Certain; trying again does not help.
    #[error("the object {key} was created by somebody else")]
    AlreadyExists {
        /// Its name.
        key: String,
    },
    /// The store did not answer, or said "later". **A write may or may not have happened**; writing the same again is safe.
    #[error("the object store cannot {operation} {key} now: {cause}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// On what.
        key: String,
        /// What the last attempt said.
        cause: String,
        /// Trying again later can help.
        retryable: bool,
    },
    /// The store, or how we are to use it, is wrong: somebody must change something first.
    #[error("the object store {store} cannot be used: {cause}; {remedy}")]
    Refused {
        /// Its address.
        store: String,
        /// What is wrong.
        cause: String,
        /// What to change.
        remedy: String,
    },
}

impl StoreError {
    /// Trying the same again later can help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Unavailable { retryable: true, .. })
    }

    /// The object is certainly not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::NotFound { .. })
    }
}

/// What one attempt ended with.
#[derive(Debug)]
pub(crate) enum Failure {
    NotFound,
    /// The name is taken, or (409) somebody creates it at this moment.
    Conflict,
    /// Worth another attempt.
    Transient {
        cause: String,
        /// The store asked for fewer requests.
        slow_down: bool,
    },
    /// Not worth one: `remedy` says what to change.
    Permanent {
        cause: String,
        remedy: &'static str,
    },
}

impl Failure {
    pub(crate) fn transient(cause: impl ToString) -> Self {
        Failure::Transient { cause: cause.to_string(), slow_down: false }
    }

    /// Short name, for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Failure::NotFound => "not_found",
            Failure::Conflict => "conflict",
            Failure::Transient { slow_down: true, .. } => "slow_down",
            Failure::Transient { .. } => "transient",
            Failure::Permanent { .. } => "refused",
        }
    }
}

const CHECK_KEYS: &str = "check the access key (OGEL_S3_ACCESS_KEY_ID), its secret (OGEL_S3_SECRET_ACCESS_KEY) and what they are allowed to do with the bucket";
const CHECK_SETTINGS: &str = "check OGEL_REMOTE (--remote) and the S3 settings (OGEL_S3_…)";

/// What the store's own error code asks for, by what codes it is told.
const REMEDIES: [(&[&str], &str); 4] = [
    (&["NoSuchBucket"], "create the bucket, or name another one in OGEL_REMOTE (--remote)"),
    (&["RequestTimeTooSkewed", "RequestExpired"], "set this machine's clock (NTP): signatures hold for 15 minutes"),
    (
        &[
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            "IllegalLocationConstraint",
            "InvalidRegionName",
            "eceived redirect",
        ],
        "set OGEL_S3_REGION to the bucket's region and OGEL_S3_ENDPOINT to that region's address",
    ),
    (&["ExpiredToken", "InvalidToken"], "renew OGEL_S3_SESSION_TOKEN"),
];

fn remedy(cause: &str) -> Option<&'static str> {
    REMEDIES.iter().find(|(codes, _)| codes.iter().any(|code| cause.contains(code))).map(|(_, remedy)| *remedy)
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error;
        let cause = describe(&error);
        match error {
            Error::NotFound { .. } if cause.contains("NoSuchBucket") => {
                Failure::Permanent { remedy: remedy(&cause).unwrap_or(CHECK_SETTINGS), cause }
            }
            Error::NotFound { .. } => Failure::NotFound,
            Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => Failure::Conflict,
            // A clock that is off is worth no retry, a token that has just expired neither.
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Failure::Permanent { remedy: remedy(&cause).unwrap_or(CHECK_KEYS), cause }
            }
            Error::NotImplemented { .. } | Error::NotSupported { .. } => {
                Failure::Permanent { cause, remedy: "use a store that implements it" }
            }
            Error::InvalidPath { .. } | Error::UnknownConfigurationKey { .. } => {
                Failure::Permanent { cause, remedy: "check OGEL_REMOTE (--remote)" }
            }
            Error::Generic { .. } => match status(&cause) {
                Some(429 | 503) => Failure::Transient { cause, slow_down: true },
                Some(300..=399) => Failure::Permanent { remedy: remedy(&cause).unwrap_or(CHECK_SETTINGS), cause },
                None if cause.contains("eceived redirect") => {
                    Failure::Permanent { remedy: remedy(&cause).unwrap_or(CHECK_SETTINGS), cause }
                }
                Some(400..=407 | 410..=428 | 430..=499) => {
                    Failure::Permanent { remedy: remedy(&cause).unwrap_or(CHECK_SETTINGS), cause }
                }
                _ if cause.contains("No space left") || cause.contains("Disk quota") => Failure::transient(format!(
                    "{cause} (the object store's disk is full: make room; nothing is lost meanwhile)"
                )),
                _ => Failure::transient(cause),
            },
            _ => Failure::transient(cause),
        }
    }
}

/// The error with its causes, on one line of bounded length.
fn describe(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    let one_line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.chars().take(600).collect()
}

/// The HTTP status in an error's text; the library keeps its type to itself. `tests/hostile_server.rs` pins the form.
fn status(cause: &str) -> Option<u16> {
    let (_, rest) = cause.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}
