/** Registries: images that come from them and go to them. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { LayerdError } from '../../../core/errors.js';
import { parsePlatform } from '../../../core/platform.js';
import type { Credentials, PushCompression } from '../../../core/words.js';
import { answerWithProgress, NDJSON } from '../answers.js';
import type { DoorContext } from '../context.js';
import { about, name, object, oneWord, options, text, yes } from '../schema.js';
import { route, streamLine, streams } from './route.js';

const tag = 'registries';

/** Headers, so that no log of requests has what they say. */
const AUTH = 'x-layerd-registry-auth';

const authHeader = about(
  text,
  'Base64 of {"username", "password"} or {"identityToken"} for the registry. Default: the credentials file of the daemon.',
);
const headers = { type: 'object', properties: { [AUTH]: authHeader } };

const platform = about(text, 'OS/ARCHITECTURE[/VARIANT], where there are several; default: this machine.');

interface PushBody {
  target?: string;
  compression?: PushCompression;
}
interface PullBody {
  ref: string;
  platform?: string;
  allPlatforms?: boolean;
}

export function registryRoutes(app: FastifyInstance, door: DoorContext): void {
  pullRoute(app, door);
  pushRoute(app, door);
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
      const { ref, platform: wanted, ...rest } = request.body;
      const pulling = { ...rest, ...platformOption(wanted), ...credentialsOption(request, AUTH) };
      return answerWithProgress(door, request, reply, (progress, signal) =>
        door.engine.pull(ref, pulling, progress, signal),
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
