/** Registries: images that come from them and go to them. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { LayerdError } from '../../../core/errors.js';
import { parsePlatform } from '../../../core/platform.js';
import type { Credentials, PushCompression } from '../../../core/words.js';
import { answerBytes, answerWithProgress, NDJSON, TAR } from '../answers.js';
import type { DoorContext } from '../context.js';
import { about, digest, name, object, oneWord, options, ref, text, yes } from '../schema.js';
import { DESCRIPTOR_HEADER, descriptorHeader, uploadRoute } from './archive-input.js';
import { binary, route, streamLine, streams } from './route.js';

const tag = 'registries';

/** Headers, so that no log of requests has what they say. */
const AUTH = 'x-layerd-registry-auth';
/** For the registry that is copied to. */
const TARGET_AUTH = 'x-layerd-target-auth';

const authHeader = about(
  text,
  'Base64 of {"username", "password"} or {"identityToken"} for the registry. Default: the credentials file of the daemon.',
);
const headers = { type: 'object', properties: { [AUTH]: authHeader } };

const platform = about(text, 'OS/ARCHITECTURE[/VARIANT], where there are several; default: this machine.');

const onePlatform = about(text, 'OS/ARCHITECTURE[/VARIANT]: one platform of an index; default: all of it.');

interface PushBody {
  target?: string;
  compression?: PushCompression;
}
interface CopyBody {
  source: string;
  target: string;
  platform?: string;
  referrers?: boolean;
}
interface ArchiveQuery {
  ref: string;
  platform?: string;
  referrers?: boolean;
}
interface ImportQuery {
  target: string;
  compression?: PushCompression;
  platform?: string;
}
interface PullBody {
  ref: string;
  platform?: string;
  allPlatforms?: boolean;
}

export function registryRoutes(app: FastifyInstance, door: DoorContext): void {
  pullRoute(app, door);
  pushRoute(app, door);
  tagsRoute(app, door);
  copyRoutes(app, door);
}

function pullRoute(app: FastifyInstance, door: DoorContext): void {
  app.post<{ Body: PullBody }>(
    '/v1/images/pull',
    {
      schema: route('Pull an image from a registry', {
        tag,
        description:
          'Layers that are there are not fetched. What an interrupted pull fetched is kept for a while: the same request ' +
          'goes on where it ended. The image is visible when all of it is there and verified.',
        headers,
        body: object<PullBody>(
          { ref: about(name, 'As Docker has it: [REGISTRY/]NAME[:TAG][@DIGEST].'), platform, allPlatforms: yes },
          ['platform', 'allPlatforms'],
        ),
        response: streams(NDJSON, 'Progress, then the result or an error.', streamLine('PullResult')),
      }),
    },
    (request, reply) => {
      const { ref: wantedRef, platform: wanted, ...rest } = request.body;
      const pulling = { ...rest, ...platformOption(wanted), ...credentialsOption(request, AUTH) };
      return answerWithProgress(door, request, reply, (progress, signal) =>
        door.engine.pull(wantedRef, pulling, progress, signal),
      );
    },
  );
}

function pushRoute(app: FastifyInstance, door: DoorContext): void {
  app.post<{ Params: { name: string }; Body: PushBody }>(
    '/v1/images/:name/push',
    {
      schema: route('Push an image to a registry', {
        tag,
        description:
          'Blobs that are there are not sent, and those of other repositories of the registry are taken over. The manifest ' +
          'is the one that the image came with where its blobs are there, or kept here.',
        headers,
        params: object<{ name: string }>({ name: about(name, 'A ref, an image id, or a unique prefix of one.') }),
        body: options<PushBody>({
          target: about(name, 'Where to; default: the name in the path.'),
          compression: about(
            oneWord('gzip', 'zstd'),
            'Default: as the image came; gzip for what has to be compressed.',
          ),
        }),
        response: streams(NDJSON, 'Progress, then the result or an error.', streamLine('PushResult')),
      }),
    },
    (request, reply) => {
      const pushing = { ...request.body, ...credentialsOption(request, AUTH) };
      return answerWithProgress(door, request, reply, (progress, signal) =>
        door.engine.push(request.params.name, pushing, progress, signal),
      );
    },
  );
}

function tagsRoute(app: FastifyInstance, door: DoorContext): void {
  app.get<{ Querystring: { name: string; digest?: string } }>(
    '/v1/registry/tags',
    {
      schema: route('The tags of a repository at a registry', {
        tag,
        headers,
        querystring: object<{ name: string; digest?: string }>(
          { name, digest: about(digest, 'Only tags that lead to it: to a manifest, a platform, a config or a layer.') },
          ['digest'],
        ),
        answer: ref('TagList'),
      }),
    },
    (request, reply) => {
      const { name: repository, ...rest } = request.query;
      const asking = { ...rest, ...credentialsOption(request, AUTH) };
      return door.engine.tags(repository, asking, door.operations.signalOf(reply.raw));
    },
  );
}

function copyRoutes(app: FastifyInstance, door: DoorContext): void {
  app.post<{ Body: CopyBody }>(
    '/v1/registry/copy',
    {
      schema: route('Copy an image from registry to registry, byte for byte', {
        tag,
        headers: { type: 'object', properties: { [AUTH]: authHeader, [TARGET_AUTH]: authHeader } },
        body: object<CopyBody>({ source: name, target: name, platform: onePlatform, referrers: yes }, [
          'platform',
          'referrers',
        ]),
        response: streams(NDJSON, 'Progress, then the result or an error.', streamLine('CopyResult')),
      }),
    },
    (request, reply) => {
      const { source, target, platform: wanted, ...rest } = request.body;
      const { credentials: targetCredentials } = credentialsOption(request, TARGET_AUTH);
      const copying = {
        ...rest,
        ...platformOption(wanted),
        ...credentialsOption(request, AUTH),
        ...(targetCredentials === undefined ? {} : { targetCredentials }),
      };
      return answerWithProgress(door, request, reply, (progress, signal) =>
        door.engine.copy(source, target, copying, progress, signal),
      );
    },
  );
  app.get<{ Querystring: ArchiveQuery }>(
    '/v1/registry/archive',
    {
      schema: route('What a registry has as an OCI archive', {
        tag,
        headers,
        querystring: object<ArchiveQuery>({ ref: name, platform: onePlatform, referrers: yes }, [
          'platform',
          'referrers',
        ]),
        response: streams(TAR, 'The archive.', binary),
      }),
    },
    async (request, reply) => {
      const { ref: wantedRef, platform: wanted, ...rest } = request.query;
      const asking = { ...rest, ...platformOption(wanted), ...credentialsOption(request, AUTH) };
      const stream = await door.engine.remoteArchive(wantedRef, asking, door.operations.signalOf(reply.raw));
      await answerBytes(door, request, reply, stream);
    },
  );
  uploadRoute<ImportQuery>(app, door, '/v1/registry/import', importSchema, (archive, request, progress, signal) => {
    const { platform: wanted, ...rest } = request.query;
    const importing = { ...rest, ...platformOption(wanted), ...credentialsOption(request, AUTH) };
    return door.engine.importArchive(archive, importing, progress, signal);
  });
}

const importSchema = route('Send the image of an archive to a registry', {
  tag,
  description: `Blobs and manifest as the archive has them. The archive is the body, or what the header ${DESCRIPTOR_HEADER} names.`,
  headers: { type: 'object', properties: { ...headers.properties, ...descriptorHeader } },
  querystring: object<ImportQuery>(
    {
      target: name,
      compression: about(oneWord('gzip', 'zstd'), 'Compress the layers anew; default: as the archive has them.'),
      platform,
    },
    ['compression', 'platform'],
  ),
  response: streams(NDJSON, 'Progress, then the result or an error.', streamLine('PushResult')),
});

function platformOption(given: string | undefined): { platform?: ReturnType<typeof parsePlatform> } {
  return given === undefined ? {} : { platform: parsePlatform(given) };
}

function credentialsOption(request: FastifyRequest, header: string): { credentials?: Credentials } {
  const given = request.headers[header];
  return typeof given === 'string' ? { credentials: parseCredentials(header, given) } : {};
}

/** Throws CREDENTIALS_INVALID, which does not repeat what was given. */
function parseCredentials(header: string, given: string): Credentials {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(given, 'base64').toString('utf8'));
  } catch {
    value = null; // told below, without its text
  }
  const { username, password, identityToken } = (value ?? {}) as Record<string, unknown>;
  if (typeof identityToken === 'string') return { identityToken };
  if (typeof username === 'string' && typeof password === 'string') return { username, password };
  throw new LayerdError('CREDENTIALS_INVALID', `the header ${header} holds no credentials`, {
    details: { header },
    hint: 'It is the base64 of {"username": …, "password": …} or {"identityToken": …}.',
  });
}
