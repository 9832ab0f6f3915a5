// A BedrockAgentCoreApp in TypeScript. The SDK does not read PORT, so the program passes it on.
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
