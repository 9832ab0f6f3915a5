//! The Bedrock agent against a service that speaks Converse's wire format.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/converse.rs"]
mod converse;
mod support;

use agent_runtime::{AgentError, BedrockAgent, BedrockSettings, Context, Tool};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Provided;
use aws_sdk_bedrockruntime::config::{
    BehaviorVersion, Config, ProvideCredentials, Region, SharedCredentialsProvider,
};
use converse::{Answer, Converse, MODEL, answer, tool_use};
use journal::Event;
use serde_json::{Value, json};
use support::{Dynamo, Fault, Host, session_id};

fn settings() -> BedrockSettings {
    BedrockSettings::from_env(|name| match name {
        "MODEL_ID" => Some(MODEL.to_owned()),
        "SYSTEM_PROMPT" => Some("Be brief.".to_owned()),
        "MAX_TURNS" => Some("3".to_owned()),
        _ => None,
    })
    .unwrap()
}

fn client(
    endpoint: &str,
    credentials: impl ProvideCredentials + 'static,
) -> aws_sdk_bedrockruntime::Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(SharedCredentialsProvider::new(credentials));
    aws_sdk_bedrockruntime::Client::from_conf(config.build())
}

/// Doubles a number.
struct Double;

impl Tool for Double {
    fn name(&self) -> &str {
        "double"
    }

    fn description(&self) -> &str {
        "doubles a number"
    }

    fn input_schema(&self) -> Value {
        json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": -1.5}}})
    }

    async fn call(&self, input: Value, _: &Context) -> Result<Value, AgentError> {
        let n = input["n"].as_i64().ok_or("n must be a number")?;
        Ok(json!(2 * n))
    }
}

/// Runs one task with these answers; gives its events and what the service was asked.
async fn run_with(
    settings: BedrockSettings,
    answers: impl IntoIterator<Item = Answer>,
    credentials: impl ProvideCredentials + 'static,
) -> (Vec<Event>, Vec<Value>) {
    let service = Converse::start(answers);
    let agent = BedrockAgent::new(settings).with_client(client(&service.endpoint, credentials));
    let host = Host::start_with(&Dynamo::new(|_| Fault::None), agent.with_tool(Double));
    let id = session_id();
    assert_eq!(host.invoke(&id, "run-1", json!({"prompt": "What is 2 x 21?"})).await.0, 200);
    host.terminal(&id).await;
    (host.events(&id).await, service.stop().await)
}

async fn run(answers: impl IntoIterator<Item = Answer>) -> (Vec<Event>, Vec<Value>) {
    run_with(settings(), answers, Credentials::for_tests()).await
}

/// How the task failed: type and message.
fn failure(events: &[Event]) -> (&str, &str) {
    let last = events.last().unwrap();
    assert_eq!(last.status.as_str(), "AGENT_BACKGROUND_TASK_FAILED", "{events:?}");
    (last.error_type.as_deref().unwrap(), last.error_message.as_deref().unwrap())
}

#[tokio::test]
async fn the_model_calls_its_tools_until_it_has_an_answer() {
    let plan = json!({"phase": "plan", "step": "started", "text": "two numbers"});
    let (events, asked) = run([
        answer(
            "tool_use",
            json!([{"text": "I double."}, tool_use("t1", "double", json!({"n": 21})), tool_use("t2", "journal", plan)]),
        ),
        answer(
            "tool_use",
            json!([tool_use("t3", "journal", json!({"phase": "plan", "step": "completed"}))]),
        ),
        answer("end_turn", json!([{"text": "42"}])),
    ])
    .await;
    let statuses: Vec<_> = events.iter().map(|event| event.status.as_str()).collect();
    assert_eq!(
        statuses[1..],
        [
            "AGENT_BACKGROUND_TASK_STARTED",
            "TASK_PLAN_STARTED",
            "TASK_PLAN_COMPLETED",
            "AGENT_BACKGROUND_TASK_COMPLETED"
        ]
    );
    assert_eq!(events[2].message.as_deref(), Some("two numbers"));
    assert_eq!(events[4].result.as_deref(), Some("\"42\""));
    assert_eq!(asked[0]["system"], json!([{"text": "Be brief."}]));
    assert_eq!(
        asked[0]["messages"],
        json!([{"role": "user", "content": [{"text": "What is 2 x 21?"}]}])
    );
    assert_eq!(asked[0]["inferenceConfig"], json!({"maxTokens": 4096}));
    let tools = asked[0]["toolConfig"]["tools"].as_array().unwrap();
    assert_eq!(tools[0]["toolSpec"]["name"], "journal");
    assert_eq!(tools[1]["toolSpec"]["inputSchema"]["json"], Double.input_schema());
    assert_eq!(asked[1]["messages"][1]["content"][0]["text"], "I double.");
    let results = &asked[1]["messages"][2]["content"];
    assert_eq!(
        results[0]["toolResult"],
        json!({"toolUseId": "t1", "content": [{"text": "42"}], "status": "success"})
    );
    assert_eq!(results[1]["toolResult"]["toolUseId"], "t2");
}

#[tokio::test]
async fn a_call_that_is_wrong_is_told_to_the_model_and_does_not_end_the_task() {
    let wrong = [
        (tool_use("t", "nothing", json!({})), "there is no tool nothing"),
        (tool_use("t", "double", json!({"n": "x"})), "n must be a number"),
        (tool_use("t", "journal", json!({"phase": "a b", "step": "started"})), "invalid phase"),
        (tool_use("t", "journal", json!({"phase": "a", "step": "began"})), "invalid step"),
        (tool_use("t", "journal", json!("text")), "invalid step"),
    ];
    for (call, said) in wrong {
        let (events, asked) =
            run([answer("tool_use", json!([call])), answer("end_turn", json!([{"text": "ok"}]))])
                .await;
        let result = &asked[1]["messages"][2]["content"][0]["toolResult"];
        assert_eq!(result["status"], "error");
        assert!(result["content"][0]["text"].as_str().unwrap().contains(said), "{result}");
        assert_eq!(events.last().unwrap().result.as_deref(), Some("\"ok\""));
    }
}

#[tokio::test]
async fn what_the_service_refuses_is_in_the_journal_with_code_and_message() {
    let denied = "You don't have access to the model with the specified model ID.";
    let expired = "The security token included in the request is expired";
    let unknown = "The provided model identifier is invalid.";
    for (status, code, message, expected, calls) in [
        (429, "ThrottlingException", "Too many requests", "ClientError", 3),
        (403, "ExpiredTokenException", expired, "CredentialsError", 1),
        (
            403,
            "UnrecognizedClientException",
            "The security token is invalid",
            "CredentialsError",
            1,
        ),
        (403, "AccessDeniedException", denied, "ClientError", 1),
        (400, "ValidationException", unknown, "ClientError", 1),
        (500, "InternalServerException", "try again", "ClientError", 3),
    ] {
        let (events, asked) = run([(status, code, json!({ "message": message }))]).await;
        let (error_type, text) = failure(&events);
        assert_eq!(error_type, expected, "{code}: {text}");
        assert!(text.contains(code) && text.contains(message), "{text}");
        assert_eq!(asked.len(), calls, "{code}: the SDK retries what may pass");
    }
    let throttled_once = (429, "ThrottlingException", json!({"message": "slower"}));
    let (events, _) = run([throttled_once, answer("end_turn", json!([{"text": "ok"}]))]).await;
    assert_eq!(events.last().unwrap().result.as_deref(), Some("\"ok\""));
}

#[tokio::test]
async fn an_answer_that_is_none_fails_with_the_reason() {
    for reason in ["max_tokens", "guardrail_intervened", "malformed_tool_use", "something_new"] {
        let (events, _) = run([answer(reason, json!([{"text": "half an ans"}]))]).await;
        let (error_type, text) = failure(&events);
        assert_eq!(error_type, reason);
        assert!(text.contains("half an ans"), "{text}");
    }
    let (events, _) = run([answer("tool_use", json!([{"text": "no call"}]))]).await;
    assert_eq!(failure(&events).0, "malformed_tool_use");
    let (events, _) = run([(200, "", json!({"output": 7}))]).await;
    assert_eq!(failure(&events).0, "ClientError", "not Converse's format");
    let (events, _) = run([(200, "", json!({"stopReason": "end_turn"}))]).await;
    assert_eq!(failure(&events).0, "no_answer");
}

#[tokio::test]
async fn what_the_model_said_goes_back_as_it_was_less_what_bedrock_does_not_take_back() {
    let call = tool_use("t", "double", json!({"n": 21}));
    let thought = json!({"reasoningContent": {"reasoningText": {"text": "so", "signature": "s"}}});
    let unknown = json!({"hologram": {"bytes": "AA=="}});
    // One that ends its turn with a call has not ended it.
    for reason in ["tool_use", "end_turn"] {
        let said = json!([thought, {"text": " "}, {"text": "I double."}, unknown, call]);
        let (events, asked) =
            run([answer(reason, said), answer("end_turn", json!([{"text": "42"}]))]).await;
        assert_eq!(events.last().unwrap().result.as_deref(), Some("\"42\""), "{events:?}");
        let back = &asked[1]["messages"][1]["content"];
        assert_eq!(*back, json!([thought, {"text": "I double."}, call]));
    }
}

#[tokio::test]
async fn an_empty_prompt_is_refused_without_asking() {
    let service = Converse::start([answer("end_turn", json!([{"text": "ok"}]))]);
    let client = client(&service.endpoint, Credentials::for_tests());
    let agent = BedrockAgent::new(settings()).with_client(client);
    let (host, id) = (Host::start_with(&Dynamo::new(|_| Fault::None), agent), session_id());
    host.invoke(&id, "run-1", json!({"prompt": " "})).await;
    assert_eq!(host.terminal(&id).await.error_message.as_deref(), Some("the prompt is empty"));
    assert!(service.stop().await.is_empty());
}

#[tokio::test]
async fn turns_and_tokens_are_bounded() {
    let again = || answer("tool_use", json!([tool_use("t", "double", json!({"n": 1}))]));
    let (events, asked) = run([again()]).await;
    assert_eq!(
        failure(&events),
        ("TurnsSpent", "the model has no answer after 3 turns (MAX_TURNS)")
    );
    assert_eq!(asked.len(), 3);
    for usage in [
        json!({"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}),
        json!({"inputTokens": 10, "outputTokens": 5}),
    ] {
        let bounded = BedrockSettings { max_tokens: 30, ..settings() };
        let (status, code, mut body) = again();
        body["usage"] = usage;
        let answers = [(status, code, body)];
        let (events, asked) = run_with(bounded, answers, Credentials::for_tests()).await;
        assert_eq!(failure(&events).0, "TokensSpent");
        assert_eq!(asked.len(), 2, "15 tokens each");
    }
}

/// What the SDK's chain says when nothing gives it credentials.
#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        Provided::ready(Err(CredentialsError::not_loaded("no providers in chain")))
    }
}

#[tokio::test]
async fn without_credentials_the_task_fails_and_says_so() {
    let (events, asked) = run_with(settings(), [(500, "", json!({}))], NoCredentials).await;
    assert_eq!(failure(&events).0, "CredentialsError");
    assert!(asked.is_empty(), "nothing was sent");
}

#[test]
fn settings_that_break_a_rule_name_it() {
    let read = |name: &str, value: &str| {
        let environment = [("MODEL_ID", "m"), (name, value)];
        let settings = BedrockSettings::from_env(|asked| {
            let set = environment.iter().rfind(|(name, _)| *name == asked);
            set.map(|(_, value)| (*value).to_owned())
        });
        settings.unwrap_err().to_string()
    };
    for (name, value) in [
        ("MODEL_ID", ""),
        ("MAX_TURNS", "0"),
        ("MAX_TOKENS", "many"),
        ("MAX_ANSWER_TOKENS", "4294967295"),
        ("SYSTEM_PROMPT_FILE", "/does/not/exist"),
    ] {
        assert!(read(name, value).contains(name), "{name}");
    }
}
