//! What `deploy/template.yaml` allows: exactly what is listed here.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value};

/// `!Ref x` as `{"!Ref": "x"}`, everything else as it stands.
fn to_json(node: &Yaml) -> Value {
    match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => Value::from(*value),
        Yaml::Value(Scalar::Integer(value)) => Value::from(*value),
        Yaml::Value(Scalar::FloatingPoint(value)) => Value::from(value.0),
        Yaml::Value(Scalar::String(text)) => Value::from(text.as_ref()),
        Yaml::Sequence(items) => items.iter().map(to_json).collect(),
        Yaml::Mapping(fields) => {
            let name = |key| match to_json(key) {
                Value::String(name) => name,
                other => other.to_string(),
            };
            Value::Object(fields.iter().map(|(key, value)| (name(key), to_json(value))).collect())
        }
        Yaml::Tagged(tag, value) => {
            Value::Object(Map::from_iter([(format!("!{}", tag.suffix), to_json(value))]))
        }
        other => panic!("unexpected: {other:?}"),
    }
}

fn template() -> Value {
    to_json(&Yaml::load_from_str(include_str!("../../deploy/template.yaml")).unwrap()[0])
}

/// A value as one reads it in the template; of `!Sub [text, variables]` the text.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(tagged) if tagged.len() == 1 => {
            let (tag, value) = tagged.iter().next().unwrap();
            match value {
                Value::Array(items) if tag == "!Sub" => text(&items[0]),
                value if tag == "!Sub" => text(value),
                value => format!("{tag} {}", text(value)),
            }
        }
        other => other.to_string(),
    }
}

/// One or several.
fn each(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        one => vec![text(one)],
    }
}

/// A policy's statements, one line for each action and resource.
fn statements(owner: &str, policy: &Value) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        let known = ["Sid", "Effect", "Principal", "Action", "Resource", "Condition"];
        let fields = statement.as_object().unwrap();
        assert!(fields.keys().all(|key| known.contains(&key.as_str())), "{statement}");
        let principal = match &statement["Principal"] {
            Value::Null => String::new(),
            Value::String(all) => format!(" to {all}"),
            Value::Object(service) => format!(" to {}", text(&service["Service"])),
            other => panic!("{other}"),
        };
        let condition = match &statement["Condition"] {
            Value::Object(tests) => {
                let tests = tests.iter().flat_map(|(test, keys)| {
                    keys.as_object()
                        .unwrap()
                        .iter()
                        .map(move |(key, value)| format!(" if {test} {key} {}", text(value)))
                });
                tests.collect::<String>()
            }
            _ => String::new(),
        };
        let effect = text(&statement["Effect"]);
        for action in each(&statement["Action"]) {
            let resources = match &statement["Resource"] {
                Value::Null => vec!["itself".to_owned()],
                resources => each(resources),
            };
            for resource in resources {
                lines.insert(format!(
                    "{owner}: {effect} {action} on {resource}{principal}{condition}"
                ));
            }
        }
    }
    lines
}

const LOGS: &str = "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:";
const STATES: &str = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:";
const AGENTCORE: &str = "arn:${AWS::Partition}:bedrock-agentcore:${AWS::Region}:${AWS::AccountId}:";
const ACCOUNT: &str = "if StringEquals aws:SourceAccount !Ref AWS::AccountId";
const TABLE: &str = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${AWS::StackName}-journal";

/// The conditions on which permissions depend.
const CONDITIONS: [&str; 4] =
    ["AllowsBedrockModels", "ExportsTraces", "ProtectsJournal", "RaisesAlarms"];

/// The value where these conditions hold and the others do not; nothing where it is left out.
fn resolve(value: &Value, holds: &dyn Fn(&str) -> bool) -> Option<Value> {
    match value {
        Value::Object(fields) => {
            if let Some(choice) = fields.get("!If") {
                let branch = if holds(choice[0].as_str().unwrap()) { 1 } else { 2 };
                return resolve(&choice[branch], holds);
            }
            if fields.get("!Ref").is_some_and(|name| name == "AWS::NoValue") {
                return None;
            }
            if fields.get("Condition").and_then(Value::as_str).is_some_and(|name| !holds(name)) {
                return None;
            }
            let kept = fields
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), resolve(value, holds)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(items.iter().filter_map(|item| resolve(item, holds)).collect()),
        other => Some(other.clone()),
    }
}

fn allowed(holds: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
    let mut allowed = BTreeSet::from([
        // The journal: exactly this, on exactly this table.
        "WorkflowRole: Allow dynamodb:PutItem on !GetAtt JournalTable.Arn".to_owned(),
        "WorkflowRole: Allow dynamodb:Query on !GetAtt JournalTable.Arn".to_owned(),
        "InvokerRole: Allow dynamodb:PutItem on !GetAtt JournalTable.Arn".to_owned(),
        "AgentRole: Allow dynamodb:PutItem on !GetAtt JournalTable.Arn".to_owned(),
        // Who calls whom.
        "WorkflowRole: Allow lambda:InvokeFunction on !GetAtt Invoker.Arn".to_owned(),
        "InvokerRole: Allow bedrock-agentcore:InvokeAgentRuntime on !GetAtt AgentRuntime.AgentRuntimeArn".to_owned(),
        "InvokerRole: Allow bedrock-agentcore:InvokeAgentRuntime on ${AgentRuntime.AgentRuntimeArn}/runtime-endpoint/*".to_owned(),
        // Logs and image.
        "InvokerRole: Allow logs:CreateLogStream on !GetAtt InvokerLog.Arn".to_owned(),
        "InvokerRole: Allow logs:PutLogEvents on !GetAtt InvokerLog.Arn".to_owned(),
        "AgentRole: Allow ecr:BatchGetImage on arn:${AWS::Partition}:ecr:${AWS::Region}:${AWS::AccountId}:repository/${Repository}".to_owned(),
        "AgentRole: Allow ecr:GetDownloadUrlForLayer on arn:${AWS::Partition}:ecr:${AWS::Region}:${AWS::AccountId}:repository/${Repository}".to_owned(),
        "AgentRole: Allow ecr:GetAuthorizationToken on *".to_owned(),
        format!("AgentRole: Allow logs:CreateLogGroup on {LOGS}/aws/bedrock-agentcore/runtimes/${{AgentName}}-*"),
        format!("AgentRole: Allow logs:DescribeLogStreams on {LOGS}/aws/bedrock-agentcore/runtimes/${{AgentName}}-*"),
        format!("AgentRole: Allow logs:CreateLogStream on {LOGS}/aws/bedrock-agentcore/runtimes/${{AgentName}}-*:log-stream:*"),
        format!("AgentRole: Allow logs:PutLogEvents on {LOGS}/aws/bedrock-agentcore/runtimes/${{AgentName}}-*:log-stream:*"),
        format!("AgentRole: Allow logs:DescribeLogGroups on {LOGS}*"),
        // Who may be whom.
        format!("WorkflowRole: Allow sts:AssumeRole on itself to states.amazonaws.com {ACCOUNT} if ArnLike aws:SourceArn {STATES}${{AWS::StackName}}-session"),
        format!("InvokerRole: Allow sts:AssumeRole on itself to lambda.amazonaws.com {ACCOUNT}"),
        format!("AgentRole: Allow sts:AssumeRole on itself to bedrock-agentcore.amazonaws.com {ACCOUNT} if ArnLike aws:SourceArn {AGENTCORE}*"),
    ]);
    if holds("AllowsBedrockModels") {
        for action in ["InvokeModel", "InvokeModelWithResponseStream"] {
            for resource in
                ["*::foundation-model/*", "${AWS::Region}:${AWS::AccountId}:inference-profile/*"]
            {
                allowed.insert(format!(
                    "AgentRole: Allow bedrock:{action} on arn:${{AWS::Partition}}:bedrock:{resource}"
                ));
            }
        }
    }
    if holds("ExportsTraces") {
        allowed.insert("InvokerRole: Allow xray:PutTraceSegments on *".to_owned());
        allowed.insert("AgentRole: Allow xray:PutTraceSegments on *".to_owned());
    }
    if holds("RaisesAlarms") {
        for (action, resource) in [
            ("dynamodb:DescribeStream", "!GetAtt JournalTable.StreamArn"),
            ("dynamodb:GetRecords", "!GetAtt JournalTable.StreamArn"),
            ("dynamodb:GetShardIterator", "!GetAtt JournalTable.StreamArn"),
            ("dynamodb:ListStreams", "*"),
            ("logs:CreateLogStream", "!GetAtt TamperingLog.Arn"),
            ("logs:PutLogEvents", "!GetAtt TamperingLog.Arn"),
        ] {
            allowed.insert(format!("TamperingRole: Allow {action} on {resource}"));
        }
        let pipe = "arn:${AWS::Partition}:pipes:${AWS::Region}:${AWS::AccountId}:pipe/${AWS::StackName}-tampering";
        allowed.insert(format!("TamperingRole: Allow sts:AssumeRole on itself to pipes.amazonaws.com {ACCOUNT} if ArnLike aws:SourceArn {pipe}"));
    }
    if holds("ProtectsJournal") {
        for write in [
            "BatchWriteItem", "DeleteItem", "PartiQLDelete", "PartiQLInsert", "PartiQLUpdate",
            "UpdateItem",
        ] {
            allowed.insert(format!("JournalTable: Deny dynamodb:{write} on {TABLE} to *"));
        }
    }
    allowed
}

/// What the template's roles and policies allow where these conditions hold.
fn found(template: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, resource) in template["Resources"].as_object().unwrap() {
        let properties = &resource["Properties"];
        match resource["Type"].as_str().unwrap() {
            "AWS::IAM::Role" => {
                // The policies of ManagedPolicyArns are the deployer's own.
                let known = ["AssumeRolePolicyDocument", "ManagedPolicyArns", "Policies"];
                let fields = properties.as_object().unwrap();
                assert!(
                    fields.keys().all(|key| known.contains(&key.as_str())),
                    "{name}: {fields:?}"
                );
                if let Some(managed) = fields.get("ManagedPolicyArns") {
                    assert_eq!(
                        (name.as_str(), text(managed)),
                        ("AgentRole", "!Ref AgentPolicyArns".to_owned())
                    );
                }
                found.extend(statements(name, &properties["AssumeRolePolicyDocument"]));
                for policy in properties["Policies"].as_array().unwrap() {
                    found.extend(statements(name, &policy["PolicyDocument"]));
                }
            }
            // SAM would make a role of its own, or add to one.
            "AWS::Serverless::Function" | "AWS::Serverless::StateMachine" => {
                assert!(text(&properties["Role"]).ends_with("Role.Arn"), "{name}");
                for adds in ["Policies", "Events", "Tracing", "FunctionUrlConfig"] {
                    assert_eq!(properties[adds], Value::Null, "{name}: {adds}");
                }
            }
            "AWS::DynamoDB::Table" => {
                if let Some(policy) = properties.get("ResourcePolicy") {
                    found.extend(statements(name, &policy["PolicyDocument"]));
                }
            }
            "AWS::BedrockAgentCore::Runtime"
            | "AWS::CloudWatch::Alarm"
            | "AWS::Logs::LogGroup"
            | "AWS::Logs::LogStream"
            | "AWS::Pipes::Pipe" => {}
            other => panic!("{other} may bring permissions of its own"),
        }
    }
    found
}

#[test]
fn the_template_allows_what_is_listed_and_nothing_else() {
    let template = template();
    for combination in 0..1 << CONDITIONS.len() {
        // The others are about what brings no permission.
        let holds = |name: &str| {
            let known = CONDITIONS.iter().position(|condition| *condition == name);
            known.is_none_or(|at| combination & (1 << at) != 0)
        };
        let whole = resolve(&template, &holds).unwrap();
        assert_eq!(found(&whole), allowed(&holds), "{combination:b}");
    }
    let without = resolve(&template, &|_| false).unwrap();
    assert_eq!(found(&without), allowed(&|_| false));
    let known = Vec::from_iter(template["Conditions"].as_object().unwrap().keys());
    let others = [
        "HasAgentCommand", "HasAgentEnvironment", "HasAgentPolicies", "HasAgentServerCommand",
        "IsInVpc", "KeepsEvents",
    ];
    let mut listed = Vec::from_iter(CONDITIONS.into_iter().chain(others));
    listed.sort_unstable();
    let mut known = Vec::from_iter(known.into_iter().map(String::as_str));
    known.sort_unstable();
    assert_eq!(known, listed, "another condition may bring permissions");
}

#[test]
fn the_journal_is_kept_and_the_definition_gets_its_substitutions() {
    let template = template();
    let table = &template["Resources"]["JournalTable"];
    assert_eq!(
        (&table["DeletionPolicy"], &table["UpdateReplacePolicy"]),
        (&"Retain".into(), &"Retain".into())
    );
    let properties = &table["Properties"];
    assert_eq!(properties["DeletionProtectionEnabled"], true);
    assert_eq!(properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true);
    assert_eq!(properties["TimeToLiveSpecification"]["AttributeName"], "ExpiresAt");
    let made = &template["Resources"]["Workflow"]["Properties"]["DefinitionSubstitutions"];
    let made: BTreeSet<_> = made.as_object().unwrap().keys().map(String::as_str).collect();
    let definition = workflow::Definition::default();
    assert_eq!(made, definition.substitutions().map(|(name, _)| name).into());
    // What may go into a substitution is checked here, and nowhere else on AWS.
    let parameters = &template["Parameters"];
    assert_eq!(parameters["MaxPollAttempts"]["MaxValue"], workflow::MAX_POLL_ATTEMPTS);
    assert_eq!(parameters["PollMaxSeconds"]["MaxValue"], 60);
    for (name, value) in definition.substitutions() {
        let substitution =
            &template["Resources"]["Workflow"]["Properties"]["DefinitionSubstitutions"][name];
        let made = match parameters[name].get("Default") {
            Some(default) => default,
            None => substitution,
        };
        let made = made.as_str().map_or(made.to_string(), str::to_owned);
        // The table and the function are the stack's own.
        assert!(
            made == value || ["JournalTableName", "InvokerFunctionArn"].contains(&name),
            "{name}: {made}"
        );
    }
}

/// What deploy.sh would run, or what it says, and its exit code.
fn deploy(arguments: &[&str]) -> (Option<i32>, String) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut script = std::process::Command::new("bash");
    let script = script.arg("deploy/deploy.sh").args(arguments).current_dir(root);
    let output = script.env("DRY_RUN", "1").output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn deploy_sh_builds_what_it_is_given() {
    let (code, command) = deploy(&["my-agents", "tr a-z A-Z"]);
    assert_eq!(code, Some(0), "{command}");
    assert!(
        command.contains("ParameterKey=AgentCommand,ParameterValue=\"tr a-z A-Z\""),
        "{command}"
    );
    assert_eq!(command.matches("'--provenance=false'").count(), 1);
    let own = [
        "my-agents", "--dockerfile", "deploy/Dockerfile.agent", "--", "SubnetIds=a,b",
        "AgentEnvironment=X=\"q\"",
    ];
    let (code, own) = deploy(&own);
    assert_eq!(code, Some(0), "{own}");
    assert!(own.contains("ParameterKey=AgentCommand,ParameterValue=\"\""), "{own}");
    assert!(own.contains("'AGENT_IMAGE=my-agents-agent'"), "{own}");
    assert!(own.contains("ParameterKey=SubnetIds,ParameterValue=\"a,b\""), "{own}");
    assert!(own.contains("ParameterKey=AgentEnvironment,ParameterValue=\"X=\\\"q\\\"\""), "{own}");
    assert_eq!(
        own.matches("'docker' 'build' '--load' '--platform' 'linux/arm64' '--provenance=false'")
            .count(),
        3
    );
    // An image that names no agent.
    let folder = tempfile::tempdir().unwrap();
    let (silent, named) = (folder.path().join("silent"), folder.path().join("named"));
    std::fs::write(&silent, "FROM scratch\n").unwrap();
    std::fs::write(&named, "FROM scratch\nENV AGENT_COMMAND=/agent\n").unwrap();
    for (file, given, warned) in [
        (&silent, "SubnetIds=a", true),
        (&silent, "AgentServerCommand=/agent", false),
        (&named, "SubnetIds=a", false),
    ] {
        let (code, said) = deploy(&["a1", "--dockerfile", file.to_str().unwrap(), "--", given]);
        assert_eq!((code, said.contains("no agent starts")), (Some(0), warned), "{said}");
    }
    let image = "000000000000.dkr.ecr.us-east-1.amazonaws.com/x:1";
    let (code, image) = deploy(&["a1", "--image", image]);
    assert_eq!(code, Some(0), "{image}");
    assert!(!image.contains("docker"), "{image}");
    assert!(image.contains("ParameterKey=AgentName,ParameterValue=\"a1\""), "{image}");
}

#[test]
fn deploy_sh_refuses_before_the_first_call_what_cannot_work() {
    let long = "a".repeat(49);
    for (arguments, said) in [
        (vec![], "STACK must have 2 to 48 characters"),
        (vec!["a", "cat"], "STACK must have 2 to 48 characters"),
        (vec![&*long, "cat"], "STACK must have 2 to 48 characters"),
        (vec!["My-agents", "cat"], "STACK must have 2 to 48 characters"),
        (vec!["my_agents", "cat"], "STACK must have 2 to 48 characters"),
        (vec!["my--agents", "cat"], "STACK must have 2 to 48 characters"),
        (vec!["my-agents-", "cat"], "STACK must have 2 to 48 characters"),
        (vec!["1agents", "cat"], "STACK must have 2 to 48 characters"),
        (vec!["my-agents"], "give one of COMMAND, --dockerfile and --image"),
        (vec!["my-agents", "cat", "--image", "x"], "give one of COMMAND, --dockerfile and --image"),
        (vec!["my-agents", "python3 /agent.py"], "has no python3: use --dockerfile"),
        (vec!["my-agents", "tr", "a", "b"], "the command must be one word: quote it"),
        (vec!["my-agents", "--dockerfile", "nowhere"], "there is no file nowhere"),
        (vec!["my-agents", "cat", "--context", "."], "--context belongs to --dockerfile"),
        (vec!["my-agents", "cat", "--", "novalue"], "a parameter is Name=Value"),
        (vec!["my-agents", "cat", "--force"], "there is no option --force"),
        (vec!["my-agents", "--image"], "--image needs a value"),
        (vec!["my-agents", "--image", "nonsense"], "--image must be ACCOUNT.dkr.ecr"),
        (vec!["my-agents", "cat", "--", "X=a\\b"], "cannot take a backslash"),
        (
            vec!["my-agents", "cat", "--", "SubnetId=a"],
            "the stack has no parameter SubnetId, only:",
        ),
    ] {
        let (code, stderr) = deploy(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said) && !stderr.contains("+ "), "{arguments:?}: {stderr}");
        assert!(stderr.contains("deploy.sh STACK COMMAND"), "it says how: {stderr}");
    }
}
