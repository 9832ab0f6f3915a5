"""Reads the command line of `sam deploy` on stdin, and checks what SAM makes of the parameters."""

import shlex
import sys

from samcli.cli.types import CfnParameterOverridesType

words = shlex.split(sys.stdin.read().removeprefix("+ "))
given = words[words.index("--parameter-overrides") + 1 :]
read = CfnParameterOverridesType().convert(given, None, None)
read.pop("AgentImageUri")
expected = {
    "AgentName": "my_agents",
    "AgentCommand": "tr a-z A-Z",
    "AgentServerCommand": "",
    "SubnetIds": "subnet-a,subnet-b",
    "AgentEnvironment": "MODEL_ID=x GREETING='hello you'",
}
assert read == expected, read
print(read)
