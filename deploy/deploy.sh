#!/usr/bin/env bash
# Builds the image and the function, and deploys them.
#
#   deploy.sh STACK COMMAND                            the base image, with a command as the agent
#   deploy.sh STACK --dockerfile PATH [--context DIR]  your image, with the runtime copied into it
#   deploy.sh STACK --image URI                        an image in ECR that has the runtime in it
#   … -- Name=Value …                                  parameters of the stack (deploy/README.md)
#
# With DRY_RUN=1 it only prints the commands. Region and credentials are those of the AWS CLI.
set -euo pipefail

usage=$(sed -n '4,7s/^# *//p' "$0")
fail() {
  printf 'deploy.sh: %s\n%s\n' "$1" "$usage" >&2
  exit 2
}

stack=${1:-}
# The name must be valid for an ECR repository, for a stack, and (with _ for -) for an AgentCore runtime.
[[ $stack =~ ^[a-z][a-z0-9]*(-[a-z0-9]+)*$ && ${#stack} -ge 2 && ${#stack} -le 48 ]] ||
  fail "STACK must have 2 to 48 characters: small letters, digits and single dashes between them, a letter first; not '$stack'"
shift
image='' dockerfile='' context='' command='' parameters=()
while (($#)); do
  case $1 in
    --image | --dockerfile | --context)
      [[ -n ${2:-} ]] || fail "$1 needs a value"
      declare "${1#--}=$2"
      shift 2
      ;;
    --)
      shift
      for parameter; do
        [[ $parameter =~ ^[A-Za-z0-9]+= ]] || fail "a parameter is Name=Value, not '$parameter'"
        [[ $parameter != *\\* ]] || fail "SAM cannot take a backslash in a parameter: '$parameter'"
        parameters+=("$parameter")
      done
      break
      ;;
    -*) fail "there is no option $1" ;;
    *)
      [[ -z $command ]] || fail "the command must be one word: quote it"
      command=$1
      shift
      ;;
  esac
done
given=0
for one in "$image" "$dockerfile" "$command"; do [[ -z $one ]] || given=$((given + 1)); done
((given == 1)) || fail 'give one of COMMAND, --dockerfile and --image'
[[ -z $context || -n $dockerfile ]] || fail '--context belongs to --dockerfile'
if [[ -n $dockerfile ]]; then
  [[ -f $dockerfile ]] || fail "there is no file $dockerfile"
  dockerfile=$(realpath "$dockerfile")
  context=${context:-$(dirname "$dockerfile")}
  [[ -d $context ]] || fail "there is no folder $context"
  context=$(realpath "$context")
fi
[[ -z $image || $image =~ ^[0-9]{12}\.dkr\.ecr\..*[:@] ]] ||
  fail "--image must be ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG, not '$image'"
[[ $command != *\\* ]] || fail 'SAM cannot take a backslash in the command: put it into a script'
case ${command%% *} in
  python* | uv | uvicorn | node | np[mx] | java | ruby | ./* | /agent* | /app*)
    fail "the base image is Debian with a shell, and has no ${command%% *}: use --dockerfile"
    ;;
esac
cd "$(dirname "$0")/.."
# SAM would leave out what the template does not have.
names=" $(sed -n '/^Parameters:/,/^[A-Z]/s/^  \([A-Za-z0-9]*\):$/\1/p' deploy/template.yaml | xargs) "
for parameter in "${parameters[@]}"; do
  [[ $names == *" ${parameter%%=*} "* ]] || fail "the stack has no parameter ${parameter%%=*}, only:$names"
done
if [[ -n $dockerfile && " ${parameters[*]}" != *" Agent"*Command=* ]] && ! grep -qE 'AGENT_(COMMAND|SERVER_COMMAND|URL)' "$dockerfile"; then
  printf 'warning: %s sets none of AGENT_COMMAND, AGENT_SERVER_COMMAND and AGENT_URL. If its base image does not either, no agent starts.\n' "$dockerfile" >&2
fi

dry_run=${DRY_RUN:-}
run() {
  printf '+ %s\n' "${*@Q}" >&2
  if [[ -z $dry_run ]]; then "$@"; fi
}

account=000000000000
region=${AWS_REGION:-${AWS_DEFAULT_REGION:-us-east-1}}
if [[ -z $dry_run ]]; then
  for tool in aws sam cargo cargo-lambda $([[ -n $image ]] || echo docker); do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
  done
  account=$(aws sts get-caller-identity --query Account --output text)
  region=${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}
  [[ -n $region ]] || fail 'which region: set AWS_REGION'
fi
export AWS_REGION=$region AWS_DEFAULT_REGION=$region

# cargo-lambda builds the invoker.
run sam build --beta-features --template-file deploy/template.yaml

build() {
  # No attestation, because it would turn the image into an index. The default builder, because another
  # one would not see this machine's images.
  run env BUILDX_BUILDER=default docker build --load --platform linux/arm64 --provenance=false "$@"
}

if [[ -z $image ]]; then
  registry=$account.dkr.ecr.$region.amazonaws.com
  # A new tag each time, because AgentCore notices no other change of the image.
  image=$registry/$stack:$(date -u +%Y%m%d%H%M%S)
  if [[ -n $dry_run ]] || ! aws ecr describe-repositories --repository-names "$stack" >/dev/null 2>&1; then
    run aws ecr create-repository --repository-name "$stack"
  fi
  if [[ -n $command ]]; then
    build --file deploy/Dockerfile --tag "$image" .
  else
    build --file deploy/Dockerfile --tag agent-runtime .
    build --file "$dockerfile" --tag "$stack-agent" "$context"
    build --file deploy/Dockerfile.agent --build-arg "AGENT_IMAGE=$stack-agent" --tag "$image" deploy
  fi
  run bash -c "aws ecr get-login-password | docker login --username AWS --password-stdin $registry"
  run docker push --platform linux/arm64 "$image"
fi

# A parameter that is not given keeps its last value. AgentCommand and AgentServerCommand exclude each
# other, so both are always given.
overrides=("AgentImageUri=$image" "AgentName=${stack//-/_}" "AgentCommand=$command" AgentServerCommand= "${parameters[@]}")
quoted=()
for override in "${overrides[@]}"; do
  value=${override#*=}
  quoted+=("ParameterKey=${override%%=*},ParameterValue=\"${value//\"/\\\"}\"")
done

# After a failed creation, the resources stay and the next run continues. A failed update is rolled back.
on_failure=(--on-failure DO_NOTHING)
if [[ -z $dry_run ]]; then
  status=$(aws cloudformation describe-stacks --stack-name "$stack" --query 'Stacks[0].StackStatus' --output text 2>/dev/null || true)
  [[ -z $status || $status == CREATE_FAILED ]] || on_failure=()
fi
run sam deploy --stack-name "$stack" --resolve-s3 --capabilities CAPABILITY_IAM \
  --no-fail-on-empty-changeset "${on_failure[@]}" --parameter-overrides "${quoted[@]}"

# A command for the user to run, not this script.
# shellcheck disable=SC2016
output() {
  printf '$(aws cloudformation describe-stacks --stack-name %s --query "Stacks[0].Outputs[?OutputKey==%s].OutputValue" --output text)' "$stack" "'$1'"
}
if [[ -n $dry_run ]]; then
  printf 'This was a dry run: the commands were printed, and nothing was done. They run in %s.\n' "$PWD"
  [[ $account != 000000000000 ]] || printf 'Your account stands where it says %s.\n' "$account"
fi
cat <<DONE
Start a session and watch it:
  export STATE_MACHINE_ARN=arn:aws:states:$region:$account:stateMachine:$stack-session
  export JOURNAL_TABLE_NAME=$stack-journal
  export AGENT_RUNTIME_ARN=$(output AgentRuntimeArn)
  export AGENT_LOG_GROUP=$(output AgentLogGroup) INVOKER_LOG_GROUP=/aws/lambda/$stack-invoker
  agent-journal start --watch 'a prompt'
DONE
