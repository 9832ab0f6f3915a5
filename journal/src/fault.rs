//! What a failed call of the AWS SDK means for the journal.

use std::error::Error;
use std::fmt;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// Service codes by which AWS refuses the credentials themselves (missing, expired, unknown).
const CREDENTIAL_CODES: [&str; 11] = [
    "AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignatureException",
    "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException",
    "MissingAuthenticationToken", "MissingAuthenticationTokenException", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Service codes that ask for a later attempt; the request was not applied.
const THROTTLING_CODES: [&str; 9] = [
    "LimitExceededException", "ProvisionedThroughputExceededException",
    "ReplicatedWriteConflictException", "RequestLimitExceeded", "RequestThrottledException",
    "SlowDown", "Throttling", "ThrottlingException", "TransactionConflictException",
];

/// A failed call of an AWS service: what kind of failure it is, and its text.
///
/// Displays as `Code: message` for a service error, otherwise as the whole chain of causes, with the
/// HTTP status if there is one. The SDK's own `Display` says only "service error" or "dispatch failure".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdkFault {
    /// What may be concluded from the failure.
    pub kind: FaultKind,
    text: String,
}

/// What may be concluded from a failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The environment is wrong, so nothing could be sent: no region, or an endpoint that is not a URL.
    Misconfigured,
    /// There are no credentials, or AWS refuses them: no retry helps, nothing was applied.
    Credentials,
    /// The service refused the request with this code (HTTP 4xx): nothing was applied. An answer
    /// without a readable code and AWS's request id is ambiguous, whatever its status: it may be a
    /// proxy's.
    Refused {
        /// The service's error code, such as `AccessDeniedException`.
        code: String,
    },
    /// The service is busy: nothing was applied, a later attempt may succeed.
    Throttled,
    /// No connection could be made: nothing was applied, a later attempt may succeed.
    NotConnected,
    /// The request may or may not have been applied: a timeout, a cut connection, an unreadable
    /// answer, HTTP 5xx.
    Ambiguous,
}

impl SdkFault {
    /// Error type under which a failure of the credentials is journaled.
    pub const CREDENTIALS_ERROR: &str = "CredentialsError";
    /// Error type under which an error answered by a service is journaled.
    pub const CLIENT_ERROR: &str = "ClientError";

    /// Whether a service that answers with this error code refuses the credentials themselves.
    #[must_use]
    pub fn is_about_credentials(code: &str) -> bool {
        CREDENTIAL_CODES.contains(&code)
    }

    /// Classifies an error of any AWS SDK client.
    pub fn new<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        // Without a provider of credentials, or with one that hangs, the cause has no public type.
        let credentials = chain(error).any(|cause| {
            cause.is::<CredentialsError>() || cause.to_string().contains("identity resolver")
        });
        // Only the HTTP client's text says that it failed before it could send.
        let unsent = chain(error).any(|cause| {
            let refused = cause
                .downcast_ref::<io::Error>()
                .is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused);
            let text = cause.to_string();
            refused || text.contains("client error (Connect)") || text.contains("connect timeout")
        });
        let code = error.as_service_error().and_then(|service| service.code());
        let status = error.raw_response().map(|response| response.status().as_u16());
        let misconfigured = misconfiguration(error);
        // AWS gives every request an id. Without one, something else has answered.
        let headers = error.raw_response().map(|response| response.headers());
        let is_aws = headers.is_some_and(|headers| headers.get("x-amzn-requestid").is_some());
        let final_code = code.filter(|_| is_aws && !matches!(status, Some(408 | 421 | 425)));
        let kind = match (code, status) {
            _ if misconfigured.is_some() => FaultKind::Misconfigured,
            _ if credentials => FaultKind::Credentials,
            _ if unsent => FaultKind::NotConnected,
            (Some(code), _) if THROTTLING_CODES.contains(&code) => FaultKind::Throttled,
            (_, Some(429)) => FaultKind::Throttled,
            (_, Some(400..=499)) => match final_code {
                Some(code) if Self::is_about_credentials(code) => FaultKind::Credentials,
                Some(code) => FaultKind::Refused { code: code.to_owned() },
                None => FaultKind::Ambiguous,
            },
            _ => FaultKind::Ambiguous,
        };
        let message = error.as_service_error().and_then(|service| service.message());
        let text = match (misconfigured, code) {
            // The SDK's own text has the whole request in it.
            (Some(meaning), _) => meaning.to_owned(),
            (None, Some(code)) => format!("{code}: {}", message.unwrap_or("no message")),
            (None, None) => {
                let hidden = if credentials { hidden_status(error) } else { None };
                let status = status.or(hidden).map(|status| format!(" (HTTP {status})"));
                display_chain(error) + &status.unwrap_or_default()
            }
        };
        Self { kind, text }
    }

    /// Whether no retry helps until somebody corrects something.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        use FaultKind::{Credentials, Misconfigured, Refused};
        matches!(self.kind, Refused { .. } | Credentials | Misconfigured)
    }

    pub(crate) fn of(kind: FaultKind, text: &str) -> Self {
        Self { kind, text: text.to_owned() }
    }
}

impl fmt::Display for SdkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for SdkFault {}

/// What a fault means for `table`, with the permission that the call needs.
pub(crate) fn refusal(fault: &SdkFault, table: &str, permission: &str) -> String {
    match &fault.kind {
        FaultKind::Misconfigured => format!("table {table} cannot be reached"),
        FaultKind::Credentials => format!("no valid AWS credentials to use table {table}"),
        FaultKind::Refused { code } => match code.as_str() {
            "ResourceNotFoundException" => format!("table {table} does not exist"),
            "AccessDeniedException" => {
                format!("permission {permission} on table {table} is denied")
            }
            _ => format!("table {table} refused the request"),
        },
        FaultKind::Throttled | FaultKind::NotConnected | FaultKind::Ambiguous => {
            format!("table {table} did not answer")
        }
    }
}

/// What is wrong in the environment, if that is why nothing was sent. Only the SDK's text says it.
fn misconfiguration(error: &(dyn Error + 'static)) -> Option<&'static str> {
    const REGION: &str = "there is no valid AWS region: set AWS_REGION";
    const ENDPOINT: &str = "an endpoint is not a URL: see AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_… (endpoint_url of the \
         profile)";
    let texts = [
        ("Missing Region", REGION),
        ("invalid value for field: `region`", REGION),
        ("failed to apply endpoint", ENDPOINT),
        ("unsupported scheme", ENDPOINT),
    ];
    let said = |text: &str| chain(error).any(|cause| cause.to_string().contains(text));
    texts.into_iter().find(|(text, _)| said(text)).map(|(_, meaning)| meaning)
}

/// The HTTP status with which a metadata service refused. It is in no error's text and in no public
/// type, only in the SDK's `Debug` output.
fn hidden_status(error: &dyn fmt::Debug) -> Option<u16> {
    let debug = format!("{error:?}");
    let (_, rest) = debug.split_once("status: StatusCode(")?;
    rest.split(')').next()?.parse().ok()
}

/// The messages of an error and of all its causes, joined by `: `, without repetitions.
#[must_use]
pub fn display_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        let message = cause.to_string();
        if !text.contains(&message) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&message);
        }
    }
    text
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
