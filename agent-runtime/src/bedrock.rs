//! An agent on Bedrock's Converse API: a model that works on the prompt, with tools, until it has an
//! answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::error::BuildError;
use aws_sdk_bedrockruntime::operation::converse::ConverseOutput;
use aws_sdk_bedrockruntime::types::{
    ContentBlock, ConversationRole, InferenceConfiguration, Message, StopReason,
    SystemContentBlock, Tool as ToolDefinition, ToolConfiguration, ToolInputSchema,
    ToolResultBlock, ToolResultContentBlock, ToolResultStatus, ToolSpecification, ToolUseBlock,
};
use aws_smithy_types::timeout::TimeoutConfig;
use aws_smithy_types::{Document, Number};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use journal::{SettingError, Step};
use opentelemetry::trace::{FutureExt as _, Span, SpanKind, TraceContextExt, Tracer};
use opentelemetry::{KeyValue, global};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{Agent, AgentError, Context, Invocation};

/// Longest wait for one answer of a model.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Something that a model may call.
///
/// ```
/// use agent_runtime::{AgentError, Context, Tool};
/// use serde_json::{Value, json};
///
/// struct Weather;
///
/// impl Tool for Weather {
///     fn name(&self) -> &str {
///         "weather"
///     }
///
///     fn description(&self) -> &str {
///         "Tells the weather in a city"
///     }
///
///     fn input_schema(&self) -> Value {
///         json!({"type": "object", "properties": {"city": {"type": "string"}}})
///     }
///
///     async fn call(&self, input: Value, _: &Context) -> Result<Value, AgentError> {
///         let city = input["city"].as_str().ok_or("which city?")?;
///         Ok(json!(format!("It rains in {city}.")))
///     }
/// }
/// ```
///
/// The crate brings one, `journal`, which every [`BedrockAgent`]
/// has: it journals the phases that the model says it works on.
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
trait AnyTool: Send + Sync {
    fn specification(&self) -> Result<ToolSpecification, BuildError>;
    fn name(&self) -> &str;
    fn call<'a>(
        &'a self,
        input: Value,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Value, AgentError>>;
}

impl<T: Tool> AnyTool for T {
    fn specification(&self) -> Result<ToolSpecification, BuildError> {
        ToolSpecification::builder()
            .name(Tool::name(self))
            .description(self.description())
            .input_schema(ToolInputSchema::Json(to_document(self.input_schema())))
            .build()
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

/// Runs a model on the input's `prompt` (or on the input itself, if it has none) through
/// [Converse], calling tools as the model asks for them. Its last text is the result.
///
/// An error of the service fails the task with the type `ClientError` (code and message in the
/// text), one of the credentials with `CredentialsError`, spent bounds with `TurnsSpent` or
/// `TokensSpent`, and an answer that is none with the model's stop reason, such as
/// `guardrail_intervened`.
///
/// [Converse]: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
#[derive(Clone)]
pub struct BedrockAgent {
    settings: Arc<BedrockSettings>,
    tools: Vec<Arc<dyn AnyTool>>,
    client: Arc<OnceCell<Client>>,
}

/// What the model is told, and how far it may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BedrockSettings {
    /// The model or inference profile (`MODEL_ID`).
    pub model_id: String,
    /// What the model is told first (`SYSTEM_PROMPT`, or the file that `SYSTEM_PROMPT_FILE` names).
    pub system_prompt: Option<String>,
    /// Answers of the model to one prompt (`MAX_TURNS`, by default 25).
    pub max_turns: u32,
    /// Tokens of one task, in and out, as Bedrock counts them (`MAX_TOKENS`, by default 500,000).
    pub max_tokens: u32,
    /// Tokens of one answer (`MAX_ANSWER_TOKENS`, by default 4,096).
    pub max_answer_tokens: u32,
}

impl BedrockSettings {
    /// Reads the environment.
    ///
    /// # Errors
    /// If `MODEL_ID` is missing, a bound is no number from 1, or the file cannot be read.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        use journal::settings::{optional, required};
        let text = |value: &str| Some(value.to_owned());
        let number = |name, default| {
            let read = |value: &str| {
                value.parse().ok().filter(|number| (1..=i32::MAX as u32).contains(number))
            };
            let found = optional(&env, name, "it must be a number from 1 to 2147483647", read);
            found.map(|number| number.unwrap_or(default))
        };
        let prompt = optional(&env, "SYSTEM_PROMPT", "it must be a text", text)?;
        let rule = "it must name a file with the system prompt in UTF-8";
        let file = optional(&env, "SYSTEM_PROMPT_FILE", rule, |path| {
            std::fs::read_to_string(path).ok().filter(|text| !text.is_empty())
        })?;
        Ok(Self {
            model_id: required(&env, "MODEL_ID", "it must name a model of Bedrock", text)?,
            system_prompt: prompt.or(file),
            max_turns: number("MAX_TURNS", 25)?,
            max_tokens: number("MAX_TOKENS", 500_000)?,
            max_answer_tokens: number("MAX_ANSWER_TOKENS", 4_096)?,
        })
    }
}

impl BedrockAgent {
    /// An agent with the AWS configuration of the environment, which is loaded at its first task.
    #[must_use]
    pub fn new(settings: BedrockSettings) -> Self {
        Self {
            settings: Arc::new(settings),
            tools: vec![Arc::new(Journal)],
            client: Arc::default(),
        }
    }

    /// The same with a client of the caller's.
    #[must_use]
    pub fn with_client(self, client: Client) -> Self {
        Self { client: Arc::new(OnceCell::new_with(Some(client))), ..self }
    }

    /// The same with one tool more.
    #[must_use]
    pub fn with_tool(mut self, tool: impl Tool) -> Self {
        self.tools.push(Arc::new(tool));
        self
    }

    /// Asks the model once, as a span of its own:
    /// <https://opentelemetry.io/docs/specs/semconv/gen-ai/aws-bedrock/>.
    async fn converse(
        &self,
        messages: &[Message],
        invocation: &Invocation,
    ) -> Result<ConverseOutput, AgentError> {
        let load = async || {
            let timeouts =
                TimeoutConfig::builder().operation_attempt_timeout(ANSWER_TIMEOUT).build();
            let config = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts);
            Client::new(&config.load().await)
        };
        let client = self.client.get_or_init(load).await;
        let settings = &self.settings;
        let tools: Result<Vec<_>, _> = self.tools.iter().map(|tool| tool.specification()).collect();
        let tools = tools.map_err(|error| AgentError::other(&error))?;
        let tools = ToolConfiguration::builder()
            .set_tools(Some(tools.into_iter().map(ToolDefinition::ToolSpec).collect()))
            .build()
            .map_err(|error| AgentError::other(&error))?;
        let bound = i32::try_from(settings.max_answer_tokens).unwrap_or(i32::MAX);
        let request = client
            .converse()
            .model_id(&settings.model_id)
            .set_messages(Some(messages.to_vec()))
            .set_system(
                settings.system_prompt.clone().map(|text| vec![SystemContentBlock::Text(text)]),
            )
            .inference_config(InferenceConfiguration::builder().max_tokens(bound).build())
            .tool_config(tools);
        let trace = span(
            invocation,
            &format!("chat {}", settings.model_id),
            SpanKind::Client,
            [
                KeyValue::new("gen_ai.operation.name", "chat"),
                KeyValue::new("gen_ai.provider.name", "aws.bedrock"),
                KeyValue::new("gen_ai.request.model", settings.model_id.clone()),
            ],
        );
        let answer = request.send().with_context(trace.clone()).await.map_err(AgentError::from);
        let span = trace.span();
        match &answer {
            Ok(output) => {
                span.set_attribute(KeyValue::new(
                    "gen_ai.response.finish_reasons",
                    output.stop_reason().as_str().to_owned(),
                ));
                if let Some(usage) = output.usage() {
                    let tokens = [
                        ("gen_ai.usage.input_tokens", usage.input_tokens()),
                        ("gen_ai.usage.output_tokens", usage.output_tokens()),
                    ];
                    let tokens = tokens.map(|(name, count)| KeyValue::new(name, i64::from(count)));
                    span.set_attributes(tokens);
                }
            }
            Err(error) => telemetry::record_error(&span, &error.error_type, &error.message),
        }
        span.end();
        answer
    }

    /// Does what the model asks for. What goes wrong is the model's to know.
    async fn call(
        &self,
        request: &ToolUseBlock,
        invocation: &Invocation,
    ) -> Result<ContentBlock, AgentError> {
        let tool = self.tools.iter().find(|tool| tool.name() == request.name);
        // A name that the model has made up names no span.
        let name = tool.map_or("of no name", |tool| tool.name());
        let trace = span(
            invocation,
            &format!("execute_tool {name}"),
            SpanKind::Internal,
            [
                KeyValue::new("gen_ai.operation.name", "execute_tool"),
                KeyValue::new("gen_ai.tool.name", name.to_owned()),
                KeyValue::new("gen_ai.tool.call.id", request.tool_use_id.clone()),
            ],
        );
        let result = match tool {
            Some(tool) => {
                let call = tool.call(to_json(&request.input), &invocation.context);
                call.with_context(trace.clone()).await
            }
            None => {
                Err(AgentError::new("NoSuchTool", format!("there is no tool {}", request.name)))
            }
        };
        let (content, status) = match result {
            Ok(result) => (result.to_string(), ToolResultStatus::Success),
            Err(error) => {
                telemetry::record_error(&trace.span(), &error.error_type, &error.message);
                // Bedrock takes no empty text.
                let text = if error.message.is_empty() { error.error_type } else { error.message };
                (text, ToolResultStatus::Error)
            }
        };
        trace.span().end();
        let block = ToolResultBlock::builder()
            .tool_use_id(&request.tool_use_id)
            .content(ToolResultContentBlock::Text(content))
            .status(status);
        block.build().map(ContentBlock::ToolResult).map_err(|error| AgentError::other(&error))
    }
}

impl Agent for BedrockAgent {
    async fn run(&self, invocation: Invocation) -> Result<Value, AgentError> {
        let prompt = invocation.input.get("prompt").unwrap_or(&invocation.input);
        let prompt = prompt.as_str().map_or_else(|| prompt.to_string(), str::to_owned);
        let mut messages = vec![message(ConversationRole::User, vec![ContentBlock::Text(prompt)])?];
        let mut tokens = 0;
        for _ in 0..self.settings.max_turns {
            let output = self.converse(&messages, &invocation).await?;
            tokens += output.usage().map_or(0, |usage| usage.total_tokens().unsigned_abs());
            let reason = output.stop_reason().clone();
            let answer = output.output.and_then(|output| output.as_message().ok().cloned());
            let content = answer.map(|answer| answer.content).unwrap_or_default();
            match reason {
                StopReason::EndTurn | StopReason::StopSequence => {
                    return Ok(Value::String(text(&content)));
                }
                StopReason::ToolUse => {}
                reason => {
                    let error = format!("the model stopped: {reason}. {}", text(&content));
                    return Err(AgentError::new(reason.as_str(), error.trim_end()));
                }
            }
            if tokens >= self.settings.max_tokens {
                let error =
                    format!("the task has used {tokens} tokens and has no answer (MAX_TOKENS)");
                return Err(AgentError::new("TokensSpent", error));
            }
            let mut results = Vec::new();
            for request in content.iter().filter_map(|block| block.as_tool_use().ok()) {
                results.push(self.call(request, &invocation).await?);
            }
            if results.is_empty() {
                let error = "the model asked for a tool and named none";
                return Err(AgentError::new("malformed_tool_use", error));
            }
            messages.push(message(ConversationRole::Assistant, content)?);
            messages.push(message(ConversationRole::User, results)?);
        }
        let turns = self.settings.max_turns;
        let error = format!("the model has no answer after {turns} turns (MAX_TURNS)");
        Err(AgentError::new("TurnsSpent", error))
    }
}

/// The tool by which a model says what it is at.
struct Journal;

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

/// A span below the current one, in a context of its own.
fn span<const N: usize>(
    invocation: &Invocation,
    name: &str,
    kind: SpanKind,
    attributes: [KeyValue; N],
) -> opentelemetry::Context {
    let tracer = global::tracer("agent-runtime");
    let builder = tracer.span_builder(name.to_owned()).with_kind(kind).with_attributes(attributes);
    let mut span = builder.start(&tracer);
    span.set_attributes([
        KeyValue::new("session.id", invocation.session_id.to_string()),
        KeyValue::new("journal.invocation_id", invocation.invocation_id.clone()),
    ]);
    opentelemetry::Context::current_with_span(span)
}

fn message(role: ConversationRole, content: Vec<ContentBlock>) -> Result<Message, AgentError> {
    let message = Message::builder().role(role).set_content(Some(content)).build();
    message.map_err(|error| AgentError::other(&error))
}

/// The texts of an answer.
fn text(content: &[ContentBlock]) -> String {
    let texts = content.iter().filter_map(|block| block.as_text().ok());
    Vec::from_iter(texts.map(String::as_str)).join("\n")
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

fn to_json(document: &Document) -> Value {
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
