"""The journal's events, put by boto3."""

import os
import uuid
from datetime import datetime, timezone

import boto3
from botocore.config import Config

# With more of them it does no more and costs more.
THREADS = 16

dynamodb = boto3.client("dynamodb", config=Config(max_pool_connections=THREADS))
table = os.environ["JOURNAL_TABLE_NAME"]


def put(session_id, invocation_id, source, status, **more):
    time = datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
    item = {
        "PK": f"SESSION#{session_id}",
        "SK": f"EVENT#{time}",
        "Timestamp": time,
        "Status": status,
        "EventId": str(uuid.uuid4()),
        "InvocationId": invocation_id,
        "Source": source,
        **more,
    }
    dynamodb.put_item(
        TableName=table,
        Item={name: {"S": value} for name, value in item.items()},
        ConditionExpression="attribute_not_exists(PK)",
        ReturnValuesOnConditionCheckFailure="ALL_OLD",
    )
    return time
