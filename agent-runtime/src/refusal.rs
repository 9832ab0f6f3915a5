use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde_json::json;

use crate::request::BadRequest;
use crate::supervisor::StartError;

/// A request that started no task: the answer's status, the event's type and the text of both.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub error_type: &'static str,
    pub message: String,
    /// Whether the body broke off.
    pub cut: bool,
}

impl Refusal {
    fn new(status: StatusCode, error_type: &'static str, message: String) -> Self {
        Self { status, error_type, message, cut: false }
    }

    pub fn invalid(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidRequest", message)
    }

    pub fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than {limit} bytes (MAX_BODY_BYTES)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge", message)
    }

    pub fn busy() -> Self {
        let message = "too many large bodies are being processed: try again".to_owned();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Busy", message)
    }

    pub fn shutting_down() -> Self {
        let message = StartError::ShuttingDown.to_string();
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ShuttingDown", message)
    }

    pub fn journal(message: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "JournalError", message)
    }

    pub fn internal(message: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }
}

impl From<BadRequest> for Refusal {
    fn from(error: BadRequest) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        match error {
            StartError::ShuttingDown => Self::shutting_down(),
            other => Self::journal(other.to_string()),
        }
    }
}

impl From<&Refusal> for HttpResponse {
    fn from(refusal: &Refusal) -> Self {
        Self::build(refusal.status).json(json!({ "error": refusal.message }))
    }
}
