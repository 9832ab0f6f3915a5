#!/usr/bin/env bash
# Builds the image and the function and deploys them: bash deploy/deploy.sh STACK AGENT_COMMAND
# With DRY_RUN=1 it says what it would run, and runs nothing. Region and credentials are the AWS CLI's.
set -euo pipefail
cd "$(dirname "$0")/.."

usage="usage: bash deploy/deploy.sh STACK AGENT_COMMAND, such as: deploy.sh my-agents 'tr a-z A-Z'"
stack=${1:?$usage}
agent_command=${2:?$usage}
dry_run=${DRY_RUN:-}

run() {
  printf '+ %s\n' "${*@Q}" >&2
  if [[ -z $dry_run ]]; then "$@"; fi
}

account=000000000000
region=${AWS_REGION:-${AWS_DEFAULT_REGION:-us-east-1}}
if [[ -z $dry_run ]]; then
  account=$(aws sts get-caller-identity --query Account --output text)
  region=${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region)}}
fi
export AWS_REGION=$region AWS_DEFAULT_REGION=$region
registry=$account.dkr.ecr.$region.amazonaws.com
# A tag of its own each time: AgentCore notices no other change of the image.
image=$registry/$stack:$(date -u +%Y%m%d%H%M%S)

if [[ -n $dry_run ]] || ! aws ecr describe-repositories --repository-names "$stack" >/dev/null 2>&1; then
  run aws ecr create-repository --repository-name "$stack"
fi
run docker build --platform linux/arm64 --file deploy/Dockerfile --tag "$image" .
run bash -c "aws ecr get-login-password | docker login --username AWS --password-stdin $registry"
run docker push "$image"

# cargo-lambda builds the invoker.
run sam build --beta-features --template-file deploy/template.yaml
run sam deploy --stack-name "$stack" --resolve-s3 --capabilities CAPABILITY_IAM \
  --no-fail-on-empty-changeset --parameter-overrides \
  "ParameterKey=AgentImageUri,ParameterValue=$image" \
  "ParameterKey=AgentName,ParameterValue=${stack//-/_}" \
  "ParameterKey=AgentCommand,ParameterValue=\"$agent_command\""

cat <<DONE
Start a session and watch it:
  export STATE_MACHINE_ARN=arn:aws:states:$region:$account:stateMachine:$stack-session
  export JOURNAL_TABLE_NAME=$stack-journal
  export AGENT_RUNTIME_ARN=\$(aws cloudformation describe-stacks --stack-name $stack --query "Stacks[0].Outputs[?OutputKey=='AgentRuntimeArn'].OutputValue" --output text)
  cargo run --bin agent-journal -- start --watch 'a prompt'
DONE
