//! The tools that the model may call.

use agent_runtime::{AgentError, TaskContext};
use aws_sdk_bedrockruntime::error::BuildError;
use aws_sdk_bedrockruntime::types::{Tool, ToolConfiguration, ToolInputSchema, ToolSpecification};
use serde_json::{Value, json};

use crate::documents::to_document;

/// The tools' descriptions for the model.
pub fn definitions() -> Result<ToolConfiguration, BuildError> {
    let journal = ToolSpecification::builder()
        .name("journal")
        .description(
            "Records in the session's journal that a phase of your work begins, is completed or \
             has failed, so that people can follow it. Call it when a phase begins and when it ends.",
        )
        .input_schema(ToolInputSchema::Json(to_document(json!({
            "type": "object",
            "properties": {
                "phase": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,50}$"},
                "step": {"type": "string", "enum": ["started", "completed", "failed"]},
                "text": {"type": "string", "description": "what people should know of it"}
            },
            "required": ["phase", "step"]
        }))))
        .build()?;
    ToolConfiguration::builder().tools(Tool::ToolSpec(journal)).build()
}

/// Runs a tool for the model. The model gets the message of an error and may try something else.
pub async fn call(name: &str, input: Value, context: &TaskContext) -> Result<Value, AgentError> {
    match name {
        "journal" => journal(&input, context),
        other => Err(AgentError::new("NoSuchTool", format!("there is no tool {other}"))),
    }
}

fn journal(input: &Value, context: &TaskContext) -> Result<Value, AgentError> {
    let field = |name: &str| input.get(name).and_then(Value::as_str).unwrap_or_default();
    let (phase, text) = (field("phase"), field("text"));
    match field("step") {
        "started" => context.started(phase, text)?,
        "completed" => context.completed(phase, text)?,
        "failed" => context.failed(phase, text)?,
        _ => return Err("\"step\" must be started, completed or failed".into()),
    }
    Ok(json!({"journaled": true}))
}
