//! What a model of Bedrock may call.

use std::collections::HashMap;

use aws_sdk_bedrockruntime::error::BuildError;
use aws_sdk_bedrockruntime::types::{Tool as ToolDefinition, ToolInputSchema, ToolSpecification};
use aws_smithy_types::{Document, Number};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use journal::Step;
use serde_json::{Value, json};

use crate::{AgentError, Context};

/// Something that a model may call; [`BedrockAgent`](crate::BedrockAgent) has an example.
pub trait Tool: Send + Sync + 'static {
    /// What the model calls it by: letters, digits, `_` and `-`, 64 at most (Converse's rule).
    fn name(&self) -> &str;

    /// What it is for, in words that a model understands.
    fn description(&self) -> &str;

    /// The JSON schema of its input, an object.
    fn input_schema(&self) -> Value;

    /// Does it. The context is the task's.
    ///
    /// # Errors
    /// The message goes back to the model, which may try something else; the task goes on.
    fn call(
        &self,
        input: Value,
        context: &Context,
    ) -> impl Future<Output = Result<Value, AgentError>> + Send;
}

/// A [`Tool`] of any type.
pub(crate) trait AnyTool: Send + Sync {
    fn definition(&self) -> Result<ToolDefinition, BuildError>;
    fn name(&self) -> &str;
    fn call<'a>(
        &'a self,
        input: Value,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Value, AgentError>>;
}

impl<T: Tool> AnyTool for T {
    fn definition(&self) -> Result<ToolDefinition, BuildError> {
        let specification = ToolSpecification::builder()
            .name(Tool::name(self))
            .description(self.description())
            .input_schema(ToolInputSchema::Json(to_document(self.input_schema())))
            .build();
        specification.map(ToolDefinition::ToolSpec)
    }

    fn name(&self) -> &str {
        Tool::name(self)
    }

    fn call<'a>(
        &'a self,
        input: Value,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Value, AgentError>> {
        Tool::call(self, input, context).boxed()
    }
}

/// The tool by which a model says what it is at.
pub(crate) struct Journal;

impl Tool for Journal {
    fn name(&self) -> &str {
        "journal"
    }

    fn description(&self) -> &str {
        "Records in the session's journal that a phase of your work begins, is completed or has \
         failed, so that people can follow it. Call it when a phase begins and when it ends."
    }

    fn input_schema(&self) -> Value {
        json!({
            "type": "object",
            "properties": {
                "phase": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,50}$"},
                "step": {"type": "string", "enum": ["started", "completed", "failed"]},
                "text": {"type": "string", "description": "what people should know of it"}
            },
            "required": ["phase", "step"]
        })
    }

    async fn call(&self, input: Value, context: &Context) -> Result<Value, AgentError> {
        let field = |name: &str| input.get(name).and_then(Value::as_str).unwrap_or_default();
        let step: Step = field("step").parse().map_err(|error| AgentError::other(&error))?;
        context.progress(field("phase"), step, field("text"))?;
        Ok(json!({"journaled": true}))
    }
}

fn to_document(value: Value) -> Document {
    match value {
        Value::Null => Document::Null,
        Value::Bool(value) => Document::Bool(value),
        Value::Number(number) => Document::Number(match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Number::PosInt(number),
            (None, Some(number)) => Number::NegInt(number),
            (None, None) => Number::Float(number.as_f64().unwrap_or_default()),
        }),
        Value::String(text) => Document::String(text),
        Value::Array(items) => Document::Array(items.into_iter().map(to_document).collect()),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, to_document(value)));
            Document::Object(HashMap::from_iter(fields))
        }
    }
}

/// What a model said as what a [`Tool`] reads.
pub(crate) fn to_json(document: &Document) -> Value {
    match document {
        Document::Null => Value::Null,
        Document::Bool(value) => Value::Bool(*value),
        Document::Number(Number::PosInt(number)) => (*number).into(),
        Document::Number(Number::NegInt(number)) => (*number).into(),
        Document::Number(Number::Float(number)) => (*number).into(),
        Document::String(text) => Value::String(text.clone()),
        Document::Array(items) => items.iter().map(to_json).collect(),
        Document::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), to_json(value))).collect()
        }
    }
}
