// A BedrockAgentCoreApp in TypeScript. The SDK reads no port, so the program hands PORT on.
import { BedrockAgentCoreApp } from 'bedrock-agentcore/runtime'

const app = new BedrockAgentCoreApp({
  invocationHandler: {
    process: async (payload: any, context) => ({
      words: payload.prompt.split(/\s+/).length,
      session: context.sessionId,
    }),
  },
})

app.run({ port: Number(process.env.PORT ?? 8080) })
