import type { FastifyInstance } from 'fastify';
import type { EngineEvent } from '../../../core/words.js';
import { answerLines, NDJSON } from '../answers.js';
import type { DoorContext } from '../context.js';
import { about, list, natural, object, options, ref, text, yes } from '../schema.js';
import { route, streams } from './route.js';

const tag = 'system';

interface Health {
  ok: boolean;
  problems: string[];
}
interface EventsQuery {
  since?: number;
  follow?: boolean;
}

export function systemRoutes(app: FastifyInstance, door: DoorContext): void {
  const health = object<Health>({ ok: yes, problems: list(text) });
  app.get(
    '/v1/health',
    { schema: route('Whether the daemon works', { tag, answer: health, response: { 503: health } }) },
    async (_request, reply) => {
      const state = await door.engine.health();
      return reply.code(state.ok ? 200 : 503).send(state);
    },
  );
  app.get('/v1/info', { schema: route('What runs here, and how', { tag, answer: ref('Info') }) }, async () =>
    door.engine.info(),
  );
  app.get(
    '/metrics',
    {
      schema: route('Metrics in Prometheus text format', {
        tag,
        response: streams('text/plain', 'The metrics.', text),
      }),
    },
    async (_request, reply) => reply.type('text/plain; version=0.0.4; charset=utf-8').send(await metricsOf(door)),
  );
  app.get<{ Querystring: EventsQuery }>(
    '/v1/events',
    {
      schema: route('What happened', {
        tag,
        querystring: options<EventsQuery>({
          since: about(natural, 'Only events with a higher sequence number; default 0: all that are kept.'),
          follow: about(yes, 'Go on with what happens from now.'),
        }),
        response: streams(NDJSON, 'One event per line.', ref('EngineEvent')),
      }),
    },
    async (request, reply) => {
      const { since = 0, follow = false } = request.query;
      const signal = door.operations.signalOf(reply.raw, { endless: follow });
      await answerLines<EngineEvent>(door, request, reply, singly(door.engine.events(since, follow, signal)), {
        atOnce: follow,
      });
    },
  );
}

/** The engine's metrics and those of the doors. */
async function metricsOf(door: DoorContext): Promise<string> {
  const parts = await Promise.all([door.engine.metrics(), door.doorMetrics()]);
  return parts.join('\n');
}

async function* singly<T>(items: AsyncIterable<T>): AsyncGenerator<T[]> {
  for await (const item of items) yield [item];
}
