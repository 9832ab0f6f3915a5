//! The loop between the model and its tools.

use std::time::Duration;

use agent_runtime::{Agent, AgentError, Invocation, TaskContext};
use aws_config::BehaviorVersion;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::config::Builder;
use aws_sdk_bedrockruntime::error::ProvideErrorMetadata;
use aws_sdk_bedrockruntime::operation::converse::ConverseOutput;
use aws_sdk_bedrockruntime::operation::converse::builders::ConverseFluentBuilder;
use aws_sdk_bedrockruntime::types::{
    ContentBlock, ConversationRole, InferenceConfiguration, Message, StopReason,
    SystemContentBlock, ToolResultBlock, ToolResultContentBlock, ToolResultStatus, ToolUseBlock,
};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{
    ClassifyRetry, RetryAction, RetryClassifierPriority,
};
use opentelemetry::trace::{FutureExt, Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::documents::to_json;
use crate::settings::Settings;
use crate::tools;

/// Longest wait for one answer of a model, the SDK's retries included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Runs a model on each invocation's prompt.
pub struct BedrockAgent {
    settings: Settings,
    /// Made for the first task.
    client: OnceCell<Client>,
}

impl BedrockAgent {
    pub fn new(settings: Settings) -> Self {
        Self { settings, client: OnceCell::new() }
    }

    async fn client(&self) -> &Client {
        let make = async || {
            let timeouts = TimeoutConfig::builder().operation_timeout(ANSWER_TIMEOUT).build();
            let aws = aws_config::defaults(BehaviorVersion::latest())
                .timeout_config(timeouts)
                // A model may think for minutes between the head of its answer and the body.
                .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
                .load()
                .await;
            Client::from_conf(Builder::from(&aws).retry_classifier(NotTwice).build())
        };
        self.client.get_or_init(make).await
    }

    /// The part of a request that is the same throughout a task.
    async fn request(&self) -> Result<ConverseFluentBuilder, AgentError> {
        let settings = &self.settings;
        let limit = i32::try_from(settings.max_answer_tokens).unwrap_or(i32::MAX);
        let system = settings.system_prompt.clone();
        let request = self.client().await.converse().model_id(&settings.model_id);
        Ok(request
            .set_system(system.map(|text| vec![SystemContentBlock::Text(text)]))
            .inference_config(InferenceConfiguration::builder().max_tokens(limit).build())
            .tool_config(tools::definitions().map_err(|error| AgentError::other(&error))?))
    }

    /// Asks the model. If it supports no tools, asks again without them, and does so from then on.
    async fn ask(
        &self,
        request: &mut ConverseFluentBuilder,
        messages: &[Message],
    ) -> Result<ConverseOutput, AgentError> {
        loop {
            let span = span(&format!("chat {}", self.settings.model_id), SpanKind::Client);
            let sent = request.clone().set_messages(Some(messages.to_vec())).send();
            let answer = sent.with_context(span.clone()).await;
            if let Err(error) = &answer {
                span.span().set_status(Status::error(format!("{:?}", error.code())));
            }
            span.span().end();
            let no_tools = |message: &str| message.contains("doesn't support tool use");
            match answer {
                Err(error)
                    if request.get_tool_config().is_some()
                        && error.message().is_some_and(no_tools) =>
                {
                    *request = request.clone().set_tool_config(None);
                }
                answer => return Ok(answer?),
            }
        }
    }
}

impl Agent for BedrockAgent {
    type Output = String;

    async fn run(&self, invocation: Invocation) -> Result<String, AgentError> {
        let input: Value = invocation.input.read()?;
        let prompt = input.get("prompt").unwrap_or(&input);
        let prompt = prompt.as_str().map_or_else(|| prompt.to_string(), str::to_owned);
        if prompt.trim().is_empty() {
            return Err("the prompt is empty".into());
        }
        let mut request = self.request().await?;
        let mut messages = vec![message(ConversationRole::User, vec![ContentBlock::Text(prompt)])?];
        let mut tokens = 0_u32;
        for _ in 0..self.settings.max_turns {
            let answer = self.ask(&mut request, &messages).await?;
            if let Some(usage) = answer.usage() {
                let both = usage.input_tokens().saturating_add(usage.output_tokens());
                tokens = tokens.saturating_add(usage.total_tokens().max(both).unsigned_abs());
            }
            let reason = answer.stop_reason().clone();
            let said = answer.output.and_then(|output| output.as_message().ok().cloned());
            let mut content = said.map(|said| said.content).unwrap_or_default();
            // Bedrock takes back neither a blank text, as a model may have beside a call, nor what
            // this SDK does not know.
            content.retain(|block| {
                !block.as_text().is_ok_and(|text| text.trim().is_empty()) && !block.is_unknown()
            });
            let calls = Vec::from_iter(content.iter().filter_map(|block| block.as_tool_use().ok()));
            match reason {
                StopReason::EndTurn | StopReason::StopSequence if calls.is_empty() => {
                    return Ok(text(&content));
                }
                // A turn that ends with a call has not ended.
                StopReason::EndTurn | StopReason::StopSequence | StopReason::ToolUse
                    if !calls.is_empty() => {}
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
            for call in calls {
                results.push(result(call, &invocation.context).await?);
            }
            messages.push(message(ConversationRole::Assistant, content)?);
            messages.push(message(ConversationRole::User, results)?);
        }
        let turns = self.settings.max_turns;
        let error = format!("the model has no answer after {turns} turns (MAX_TURNS)");
        Err(AgentError::new("TurnsSpent", error))
    }
}

/// Calls a tool, and turns its result or its failure into a message for the model.
async fn result(call: &ToolUseBlock, context: &TaskContext) -> Result<ContentBlock, AgentError> {
    let span = span(&format!("execute_tool {}", call.name), SpanKind::Internal);
    let returned = tools::call(&call.name, to_json(&call.input), context);
    let (text, status) = match returned.with_context(span.clone()).await {
        Ok(value) => (value.to_string(), ToolResultStatus::Success),
        Err(error) => (error.message, ToolResultStatus::Error),
    };
    span.span().end();
    let block = ToolResultBlock::builder()
        .tool_use_id(&call.tool_use_id)
        .content(ToolResultContentBlock::Text(text))
        .status(status)
        .build();
    block.map(ContentBlock::ToolResult).map_err(|error| AgentError::other(&error))
}

/// A span below the task's: <https://opentelemetry.io/docs/specs/semconv/gen-ai/aws-bedrock/>.
fn span(name: &str, kind: SpanKind) -> Context {
    let tracer = global::tracer("bedrock-agent");
    let operation = name.split(' ').next().unwrap_or_default().to_owned();
    let mut span = tracer.span_builder(name.to_owned()).with_kind(kind).start(&tracer);
    span.set_attribute(KeyValue::new("gen_ai.operation.name", operation));
    Context::current_with_span(span)
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

/// If an answer was cut, the request is not repeated, because the model's work is paid for already.
#[derive(Debug)]
struct NotTwice;

impl ClassifyRetry for NotTwice {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.output_or_error() {
            Some(Err(error)) if error.is_response_error() => RetryAction::RetryForbidden,
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "a cut answer is not asked for again"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}
