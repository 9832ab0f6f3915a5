use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde_json::json;

use crate::request::BadRequest;
use crate::supervisor::StartError;

/// A request that started no task: the answer's status, the event's type and the text of both.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub error_type: &'static str,
    pub message: String,
}

impl Refusal {
    pub fn invalid(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error_type: "InvalidRequest", message }
    }

    pub fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than {limit} bytes (MAX_BODY_BYTES)");
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, error_type: "PayloadTooLarge", message }
    }

    pub fn shutting_down() -> Self {
        let message = StartError::ShuttingDown.to_string();
        Self { status: StatusCode::SERVICE_UNAVAILABLE, error_type: "ShuttingDown", message }
    }

    pub fn journal(message: String) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, error_type: "JournalError", message }
    }

    pub fn internal(message: String) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, error_type: "InternalError", message }
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
