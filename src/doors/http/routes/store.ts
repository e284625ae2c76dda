import type { FastifyInstance } from 'fastify';
import type { CheckOptions, DriverName, GcOptions, Lease } from '../../../core/words.js';
import { answerBytes, answerWithProgress, NDJSON } from '../answers.js';
import type { DoorContext } from '../context.js';
import { about, driver, list, map, name, natural, object, options, ref, text, yes, type Schema } from '../schema.js';
import { binary, route, streamLine, streams } from './route.js';

const tag = 'store';
const BINARY = 'application/octet-stream';

export function storeRoutes(app: FastifyInstance, door: DoorContext): void {
  app.post<{ Body: GcOptions | null }>(
    '/v1/gc',
    {
      schema: route('Collect what nothing refers to', {
        tag,
        body: orNothing(
          options<GcOptions>({
            dryRun: about(yes, 'Only say what would go.'),
            grace: about(natural, 'Milliseconds that things without a reference stay; default: as configured.'),
            wait: about(yes, 'Answer when everything is unlinked, too.'),
          }),
        ),
        answer: ref('GcReport'),
      }),
    },
    async (request) => door.engine.gc(request.body ?? {}),
  );
  app.post<{ Body: CheckOptions | null }>(
    '/v1/check',
    {
      schema: route('Verify rows, files, mounts and the bytes of every layer', {
        tag,
        body: orNothing(options<CheckOptions>({ repair: yes, quick: yes })),
        response: streams(NDJSON, 'Progress, then the report or an error.', streamLine('CheckReport')),
      }),
    },
    async (request, reply) => {
      await answerWithProgress(door, request, reply, (progress, signal) =>
        door.engine.check(request.body ?? {}, progress, signal),
      );
    },
  );
  app.post<{ Body: { to: DriverName } }>(
    '/v1/migrate',
    {
      schema: route('Move all layers to another driver', {
        tag,
        body: object<{ to: DriverName }>({ to: driver }),
        response: streams(NDJSON, 'Progress, then the report or an error.', streamLine('MigrateReport')),
      }),
    },
    async (request, reply) => {
      await answerWithProgress(door, request, reply, (progress, signal) =>
        door.engine.migrate(request.body, progress, signal),
      );
    },
  );
  app.get(
    '/v1/backup',
    {
      schema: route('The database as it is at one moment, for `layerd restore`', {
        tag,
        response: streams(BINARY, 'A file of SQLite.', binary),
      }),
    },
    async (request, reply) => {
      const signal = door.operations.signalOf(reply.raw);
      await answerBytes(door, request, reply, await door.engine.backup(signal), { 'content-type': BINARY });
    },
  );
  app.get('/v1/df', { schema: route('What occupies the disk', { tag, answer: ref('DiskReport') }) }, async () =>
    door.engine.diskUsage(),
  );
  app.get<{ Querystring: { subject: string } }>(
    '/v1/why',
    {
      schema: route('What keeps something on disk', {
        tag,
        querystring: object<{ subject: string }>({
          subject: about(
            { type: 'string', minLength: 1, maxLength: 8192 },
            'An image, a layer or chain digest, a container, or an absolute path below the root.',
          ),
        }),
        answer: ref('WhyReport'),
      }),
    },
    async (request) => door.engine.why(request.query.subject),
  );
  leaseRoutes(app, door);
}

interface NewLease {
  id?: string;
  ttlMs?: number;
  labels?: Record<string, string>;
  holds?: string[];
}
interface LeaseChange {
  ttlMs?: number;
  add?: string[];
}
const leaseParams = object<{ id: string }>({ id: name });
const ttlMs = about(natural, 'Milliseconds from now until it expires; left out: never.');

function leaseRoutes(app: FastifyInstance, door: DoorContext): void {
  app.post<{ Body: NewLease | null }>(
    '/v1/leases',
    {
      schema: route('Protect images and layers from collection', {
        tag,
        status: 201,
        body: orNothing(
          options<NewLease>({
            id: about(name, 'Chosen by the client; a second lease of this id is refused.'),
            ttlMs,
            labels: map(text),
            holds: list(name),
          }),
        ),
        answer: ref('Lease'),
      }),
    },
    async (request, reply) => {
      const lease: Lease = await door.once(request, (once) => door.engine.createLease(request.body ?? {}, once));
      return reply.code(201).send(lease);
    },
  );
  app.get('/v1/leases', { schema: route('All leases', { tag, answer: list(ref('Lease')) }) }, async () =>
    door.engine.leases(),
  );
  app.patch<{ Params: { id: string }; Body: LeaseChange }>(
    '/v1/leases/:id',
    {
      schema: route('Prolong a lease, or add what it protects', {
        tag,
        params: leaseParams,
        body: options<LeaseChange>({ ttlMs, add: list(name) }),
        answer: ref('Lease'),
      }),
    },
    (request) => door.engine.updateLease(request.params.id, request.body),
  );
  app.delete<{ Params: { id: string } }>(
    '/v1/leases/:id',
    {
      schema: route('End a lease', {
        tag,
        params: leaseParams,
        response: { 204: { type: 'null', description: 'It is gone.' } },
      }),
    },
    async (request, reply) => {
      await door.once(request, (once) => door.engine.removeLease(request.params.id, once));
      return reply.code(204).send();
    },
  );
}

/** A body that may be left out. */
function orNothing(schema: Schema): Schema {
  return { ...schema, type: ['object', 'null'] };
}
