import type { FastifyInstance } from 'fastify';
import type { Change, CommitOptions, CreateContainerOptions } from '../../../core/words.js';
import { answerBytes, answerLines, answerList, answerWithProgress, NDJSON, TAR } from '../answers.js';
import type { DoorContext } from '../context.js';
import { about, list, map, name, natural, object, options, ref, text, yes } from '../schema.js';
import { imageChanges } from '../words.js';
import { binary, route, streamLine, streams } from './route.js';

const tag = 'containers';

interface Named {
  name: string;
}
interface Forced {
  force?: boolean;
}
type CreateBody = CreateContainerOptions & { image: string };

const params = object<Named>({ name: about(name, "A container's id, a unique prefix of it, or its name.") });
const forced = options<Forced>({ force: yes });

export function containerRoutes(app: FastifyInstance, door: DoorContext): void {
  app.post<{ Body: CreateBody }>('/v1/containers', { schema: createSchema }, async (request, reply) => {
    const { image, ...rest } = request.body;
    const container = await door.once(request, (once) => door.engine.createContainer(image, rest, once));
    return reply.code(201).send(container);
  });
  app.get(
    '/v1/containers',
    { schema: route('All containers, the newest first', { tag, answer: list(ref('ContainerSummary')) }) },
    (request, reply) => answerList(door, request, reply, door.engine.containers()),
  );
  app.get<{ Params: Named }>(
    '/v1/containers/:name',
    { schema: route('One container', { tag, params, answer: ref('ContainerDetail') }) },
    async (request) => door.engine.container(request.params.name),
  );
  app.delete<{ Params: Named; Querystring: Forced }>(
    '/v1/containers/:name',
    {
      schema: route('Remove a container', {
        tag,
        params,
        querystring: forced,
        answer: object<{ id: string }>({ id: text }),
      }),
    },
    (request) => door.once(request, (once) => door.engine.removeContainer(request.params.name, request.query, once)),
  );
  app.post<{ Params: Named }>(
    '/v1/containers/:name/mount',
    { schema: route('Mount the merged root; n mounts need n unmounts', { tag, params, answer: ref('MountResult') }) },
    async (request) => door.once(request, (once) => door.engine.mount(request.params.name, once)),
  );
  app.get<{ Params: Named }>(
    '/v1/containers/:name/mounts',
    {
      schema: route('The mount instructions, for a runtime that mounts by itself', {
        tag,
        params,
        answer: list(ref('MountInstruction')),
      }),
    },
    async (request) => door.engine.mountInstructions(request.params.name),
  );
  app.post<{ Params: Named; Querystring: Forced }>(
    '/v1/containers/:name/unmount',
    {
      schema: route('Give one mount back', {
        tag,
        params,
        querystring: forced,
        answer: object<{ mounts: number }>({ mounts: natural }),
      }),
    },
    async (request) => door.once(request, (once) => door.engine.unmount(request.params.name, request.query, once)),
  );
  contentRoutes(app, door);
}

const createSchema = route('Make a container from an image', {
  tag,
  status: 201,
  body: object<CreateBody>(
    {
      image: name,
      name: about(name, 'Chosen by the client; a second container of this name is refused.'),
      readOnly: yes,
      labels: map(text),
      sizeLimit: about(natural, 'Bytes that the upper may hold.'),
      volatile: about(yes, 'What the container writes need not survive a crash.'),
    },
    ['name', 'readOnly', 'labels', 'sizeLimit', 'volatile'],
  ),
  answer: ref('ContainerSummary'),
});

/** What a container holds: changes, diff, export, commit, usage. */
function contentRoutes(app: FastifyInstance, door: DoorContext): void {
  app.get<{ Params: Named }>(
    '/v1/containers/:name/changes',
    {
      schema: route('What the container changed', {
        tag,
        params,
        response: streams(NDJSON, 'One change per line; an error on the way is the last line.', ref('Change')),
      }),
    },
    async (request, reply) => {
      const signal = door.operations.signalOf(reply.raw);
      await answerLines<Change>(door, request, reply, await door.engine.changes(request.params.name, signal));
    },
  );
  app.get<{ Params: Named }>(
    '/v1/containers/:name/diff',
    { schema: route('The changes as a layer tar', { tag, params, response: streams(TAR, 'The layer tar.', binary) }) },
    async (request, reply) => {
      const signal = door.operations.signalOf(reply.raw);
      await answerBytes(door, request, reply, await door.engine.diff(request.params.name, signal));
    },
  );
  app.get<{ Params: Named }>(
    '/v1/containers/:name/export',
    { schema: route('The whole root as a tar', { tag, params, response: streams(TAR, 'The root.', binary) }) },
    async (request, reply) => {
      const signal = door.operations.signalOf(reply.raw);
      await answerBytes(door, request, reply, await door.engine.exportContainer(request.params.name, signal));
    },
  );
  app.post<{ Params: Named; Body: CommitOptions | null }>(
    '/v1/containers/:name/commit',
    { schema: commitSchema },
    async (request, reply) => {
      await answerWithProgress(door, request, reply, (progress, signal) =>
        door.engine.commit(request.params.name, request.body ?? {}, progress, signal),
      );
    },
  );
  app.get<{ Params: Named }>(
    '/v1/containers/:name/usage',
    { schema: route('What the upper of the container occupies', { tag, params, answer: ref('Usage') }) },
    async (request) => door.engine.usage(request.params.name),
  );
}

const commitSchema = route('Make a layer and an image of the changes', {
  tag,
  params,
  body: {
    ...options<CommitOptions>({
      ...imageChanges,
      pauseCgroup: about(text, "Freeze this cgroup while the container's files are read."),
    }),
    type: ['object', 'null'],
  },
  response: streams(NDJSON, 'Progress, then the result or an error.', streamLine('CommitResult')),
});
