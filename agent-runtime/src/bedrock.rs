//! An agent on Bedrock's Converse API: a model that works on the prompt, with tools, until it has an
//! answer.

use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::error::BuildError;
use aws_sdk_bedrockruntime::operation::converse::ConverseOutput;
use aws_sdk_bedrockruntime::operation::converse::builders::ConverseFluentBuilder;
use aws_sdk_bedrockruntime::types::{
    ContentBlock, ConversationRole, InferenceConfiguration, Message, StopReason,
    SystemContentBlock, ToolConfiguration, ToolResultBlock, ToolResultContentBlock,
    ToolResultStatus, ToolUseBlock,
};
use aws_smithy_types::timeout::TimeoutConfig;
use journal::{SettingError, span_attributes};
use opentelemetry::trace::{FutureExt, SpanKind, TraceContextExt, Tracer};
use opentelemetry::{Array, KeyValue, StringValue, global};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::tool::{AnyTool, Journal, to_json};
use crate::{Agent, AgentError, Invocation, Tool};

/// Longest wait for one answer of a model, the SDK's retries included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Runs a model on the input's `prompt` (or on the input itself, if it has none) through
/// [Converse], calling tools as the model asks for them. Its last text is the result.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use agent_runtime::{AgentError, BedrockAgent, BedrockSettings, Context, Tool};
/// use serde_json::{Value, json};
///
/// struct Clock;
///
/// impl Tool for Clock {
///     fn name(&self) -> &str {
///         "clock"
///     }
///
///     fn description(&self) -> &str {
///         "Tells the seconds since 1970"
///     }
///
///     fn input_schema(&self) -> Value {
///         json!({"type": "object"})
///     }
///
///     async fn call(&self, _: Value, _: &Context) -> Result<Value, AgentError> {
///         let since = std::time::UNIX_EPOCH.elapsed().map_err(|error| AgentError::other(&error))?;
///         Ok(json!(since.as_secs()))
///     }
/// }
///
/// fn main() -> ExitCode {
///     match BedrockSettings::from_env(|name| std::env::var(name).ok()) {
///         Ok(settings) => agent_runtime::run(BedrockAgent::new(settings).with_tool(Clock)),
///         Err(error) => {
///             eprintln!("{error}");
///             ExitCode::from(2)
///         }
///     }
/// }
/// ```
///
/// Tools are called one after the other, for as long as they take; one that panics fails the task.
/// Every agent has one already, `journal`: the model journals the phases it works on.
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

    /// The same with a client of the caller's (of the crate aws-sdk-bedrockruntime), such as one
    /// with another region or with a provider of credentials.
    #[must_use]
    pub fn with_client(self, client: Client) -> Self {
        Self { client: Arc::new(OnceCell::new_with(Some(client))), ..self }
    }

    /// The same with one tool more. No two may have the same name.
    #[must_use]
    pub fn with_tool(mut self, tool: impl Tool) -> Self {
        self.tools.push(Arc::new(tool));
        self
    }

    async fn client(&self) -> &Client {
        let load = async || {
            let timeouts = TimeoutConfig::builder().operation_timeout(ANSWER_TIMEOUT).build();
            let config = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts);
            Client::new(&config.load().await)
        };
        self.client.get_or_init(load).await
    }

    /// What of a request is the same throughout a task.
    async fn request(&self) -> Result<ConverseFluentBuilder, BuildError> {
        let settings = &self.settings;
        let tools = self.tools.iter().map(|tool| tool.definition()).collect::<Result<_, _>>()?;
        let bound = i32::try_from(settings.max_answer_tokens).unwrap_or(i32::MAX);
        let system = settings.system_prompt.clone();
        let request = self.client().await.converse().model_id(&settings.model_id);
        Ok(request
            .set_system(system.map(|text| vec![SystemContentBlock::Text(text)]))
            .inference_config(InferenceConfiguration::builder().max_tokens(bound).build())
            .tool_config(ToolConfiguration::builder().set_tools(Some(tools)).build()?))
    }

    /// Asks the model once, as a span of its own:
    /// <https://opentelemetry.io/docs/specs/semconv/gen-ai/aws-bedrock/>.
    async fn converse(
        &self,
        request: ConverseFluentBuilder,
        invocation: &Invocation,
    ) -> Result<ConverseOutput, AgentError> {
        let model = &self.settings.model_id;
        let trace = span(
            invocation,
            &format!("chat {model}"),
            SpanKind::Client,
            [
                KeyValue::new("gen_ai.operation.name", "chat"),
                KeyValue::new("gen_ai.provider.name", "aws.bedrock"),
                KeyValue::new("gen_ai.request.model", model.clone()),
            ],
        );
        let answer = request.send().with_context(trace.clone()).await.map_err(AgentError::from);
        let span = trace.span();
        match &answer {
            Ok(output) => {
                let reason = StringValue::from(output.stop_reason().as_str().to_owned());
                let reasons = Array::String(vec![reason]);
                let reasons = opentelemetry::Value::Array(reasons);
                span.set_attribute(KeyValue::new("gen_ai.response.finish_reasons", reasons));
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
        if prompt.trim().is_empty() {
            return Err("the prompt is empty".into());
        }
        let request = self.request().await.map_err(|error| AgentError::other(&error))?;
        let mut messages = vec![message(ConversationRole::User, vec![ContentBlock::Text(prompt)])?];
        let (mut tokens, mut turn) = (0i32, 0);
        loop {
            turn += 1;
            let request = request.clone().set_messages(Some(messages.clone()));
            let output = self.converse(request, &invocation).await?;
            tokens = tokens.saturating_add(output.usage().map_or(0, |usage| {
                usage.total_tokens().max(usage.input_tokens().saturating_add(usage.output_tokens()))
            }));
            let reason = output.stop_reason().clone();
            let answer = output.output.and_then(|output| output.as_message().ok().cloned());
            let Some(Message { mut content, .. }) = answer else {
                return Err(AgentError::new("no_answer", "the model's answer has no message"));
            };
            // Bedrock takes neither back: a blank text, as a model may have beside a call, and what
            // this SDK does not know.
            content.retain(|block| {
                !block.as_text().is_ok_and(|text| text.trim().is_empty()) && !block.is_unknown()
            });
            let calls = Vec::from_iter(content.iter().filter_map(|block| block.as_tool_use().ok()));
            match reason {
                StopReason::EndTurn | StopReason::StopSequence if calls.is_empty() => {
                    return Ok(Value::String(text(&content)));
                }
                StopReason::EndTurn | StopReason::StopSequence | StopReason::ToolUse => {}
                reason => {
                    let error = format!("the model stopped: {reason}. {}", text(&content));
                    return Err(AgentError::new(reason.as_str(), error.trim_end()));
                }
            }
            if calls.is_empty() {
                let error = "the model asked for a tool and named none";
                return Err(AgentError::new("malformed_tool_use", error));
            }
            if turn >= self.settings.max_turns {
                let error = format!("the model has no answer after {turn} turns (MAX_TURNS)");
                return Err(AgentError::new("TurnsSpent", error));
            }
            if tokens.unsigned_abs() >= self.settings.max_tokens {
                let error =
                    format!("the task has used {tokens} tokens and has no answer (MAX_TOKENS)");
                return Err(AgentError::new("TokensSpent", error));
            }
            let mut results = Vec::new();
            for call in calls {
                results.push(self.call(call, &invocation).await?);
            }
            messages.push(message(ConversationRole::Assistant, content)?);
            messages.push(message(ConversationRole::User, results)?);
        }
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
    let ids = span_attributes(&invocation.session_id, &invocation.invocation_id);
    let builder = tracer.span_builder(name.to_owned()).with_kind(kind);
    let span = builder.with_attributes(attributes.into_iter().chain(ids)).start(&tracer);
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
