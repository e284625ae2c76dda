import type { FastifyInstance } from 'fastify';
import type { Digest } from '../../../core/digest.js';
import type { BuildCacheEntry, BuildCacheKey } from '../../../core/words.js';
import { asList } from '../answers.js';
import type { DoorContext } from '../context.js';
import { about, digest, list, natural, nullable, object, options, ref, type Properties } from '../schema.js';
import { route } from './route.js';

const tag = 'build cache';

type BindBody = BuildCacheKey & { layer: Digest | null };

/** Instructions with whole scripts in them are common. */
const MAX_INSTRUCTION = 256 * 1024;

const step: Properties<BuildCacheKey> = {
  parent: about(nullable(digest), 'The chain ID of the layers below; null for none.'),
  instruction: about(
    { type: 'string', minLength: 1, maxLength: MAX_INSTRUCTION },
    'As the builder writes it, with everything that changes its outcome.',
  ),
  inputs: about(digest, 'Of what goes into it besides: files that it copies, arguments.'),
};

export function buildCacheRoutes(app: FastifyInstance, door: DoorContext): void {
  app.post<{ Body: BindBody }>(
    '/v1/build-cache',
    {
      schema: route('Remember which layer a step of a build made', {
        tag,
        body: object<BindBody>({ ...step, layer: about(nullable(digest), 'Its diff ID; null: no file was changed.') }),
        answer: ref('BuildCacheEntry'),
      }),
    },
    async (request) => door.engine.bindBuildCache(request.body),
  );
  app.post<{ Body: BuildCacheKey }>(
    '/v1/build-cache/use',
    {
      schema: route('What a step of a build made before; the entry is null where it must be done', {
        tag,
        body: object<BuildCacheKey>(step),
        answer: object<{ entry: BuildCacheEntry | null }>({
          entry: { anyOf: [ref('BuildCacheEntry'), { type: 'null' }] },
        }),
      }),
    },
    async (request) => ({ entry: await door.engine.useBuildCache(request.body) }),
  );
  app.get(
    '/v1/build-cache',
    { schema: route('The build cache, what was used last first', { tag, answer: list(ref('BuildCacheEntry')) }) },
    async () => door.engine.buildCache(),
  );
  app.delete<{ Querystring: { id?: string | string[] } }>(
    '/v1/build-cache',
    {
      schema: route('Forget entries of the build cache; without ids, all', {
        tag,
        querystring: options<{ id?: string | string[] }>({
          id: { anyOf: [{ type: 'string', pattern: '^\\d+$' }, list({ type: 'string', pattern: '^\\d+$' })] },
        }),
        answer: object<{ removed: number[] }>({ removed: list(natural) }),
      }),
    },
    async (request) => door.engine.removeBuildCache(asList(request.query.id ?? []).map(Number)),
  );
}
