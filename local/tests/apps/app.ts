// A BedrockAgentCoreApp with every way in which an agent can answer and fail. The input's `do` chooses.
import { BedrockAgentCoreApp } from 'bedrock-agentcore/runtime'

class NoPlan extends Error {}

async function* stream(fails: boolean) {
  yield { step: 1 }
  yield 'two'
  if (fails) throw new NoPlan('the plan has no steps')
}

const app = new BedrockAgentCoreApp({
  invocationHandler: {
    process: async (payload: any, context: any): Promise<any> => {
      switch (payload.do) {
        case 'answer':
          return { session: context.sessionId }
        case 'sleep':
          await new Promise((slept) => setTimeout(slept, 200))
          return ['slept']
        case 'early': {
          const task = app.addAsyncTask('work')
          setTimeout(() => app.completeAsyncTask(task), payload.seconds * 1000)
          return { accepted: true }
        }
        case 'raise':
          throw new NoPlan('the plan has no steps')
        case 'stream':
          return stream(false)
        case 'raise in stream':
          return stream(true)
      }
    },
  },
})

app.run({ port: Number(process.env.PORT) })
