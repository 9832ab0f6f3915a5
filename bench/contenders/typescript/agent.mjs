// What the Rust container does, on the TypeScript SDK: one client that keeps its connections.
import { randomUUID } from 'node:crypto'
import { DynamoDBClient, PutItemCommand } from '@aws-sdk/client-dynamodb'
import { BedrockAgentCoreApp } from 'bedrock-agentcore/runtime'

const dynamodb = new DynamoDBClient({ requestHandler: { httpAgent: { keepAlive: true, maxSockets: 64 } } })
const table = process.env.JOURNAL_TABLE_NAME

const put = (run, status, more) => {
  // JavaScript's clock knows milliseconds, and two events of a session may not share a key.
  const now = performance.timeOrigin + performance.now()
  const micros = String(Math.floor((now % 1) * 1000)).padStart(3, '0')
  const timestamp = new Date(now).toISOString().replace('Z', `${micros}Z`)
  const item = {
    PK: `SESSION#${run.sessionId}`,
    SK: `EVENT#${timestamp}`,
    Timestamp: timestamp,
    Status: status,
    EventId: randomUUID(),
    InvocationId: run.invocationId,
    Source: 'agent',
    ...more,
  }
  return dynamodb.send(
    new PutItemCommand({
      TableName: table,
      Item: Object.fromEntries(Object.entries(item).map(([name, value]) => [name, { S: value }])),
      ConditionExpression: 'attribute_not_exists(PK)',
      ReturnValuesOnConditionCheckFailure: 'ALL_OLD',
    }),
  )
}

const app = new BedrockAgentCoreApp({
  // By default it logs two lines an invocation.
  config: { logging: { options: { level: 'warn' } } },
  invocationHandler: {
    process: async (_payload, context) => {
      const run = { sessionId: context.sessionId, invocationId: randomUUID() }
      await put(run, 'AGENT_ENTRYPOINT_STARTED')
      await put(run, 'AGENT_BACKGROUND_TASK_STARTED')
      const task = app.addAsyncTask('agent')
      put(run, 'AGENT_BACKGROUND_TASK_COMPLETED', { Result: 'null' })
        .catch((error) => console.error(error))
        .finally(() => app.completeAsyncTask(task))
      return { status: 'started', session_id: run.sessionId, task_id: String(task) }
    },
  },
})

app.run({ port: Number(process.env.PORT), host: '127.0.0.1' })
