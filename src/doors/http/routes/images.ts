import type { FastifyInstance } from 'fastify';
import type { LoadOptions } from '../../../core/api.js';
import { parsePlatform } from '../../../core/platform.js';
import type { Digest } from '../../../core/digest.js';
import type { ArchiveFormat, ImageChanges } from '../../../core/words.js';
import { answerBytes, answerList, asList, NDJSON, TAR } from '../answers.js';
import type { DoorContext } from '../context.js';
import { about, digest, list, name, object, nullable, oneWord, options, ref, text, yes } from '../schema.js';
import { imageChanges } from '../words.js';
import { DESCRIPTOR_HEADER, descriptorHeader, uploadRoute } from './archive-input.js';
import { binary, route, streamLine, streams } from './route.js';

const tag = 'images';
const params = object<Named>({ name: about(name, 'A ref, an image id, or a unique prefix of one; URL-encoded.') });

interface Named {
  name: string;
}
type ExtendBody = ImageChanges & { layer: Digest | null };

interface LoadQuery {
  platform?: string;
  allPlatforms?: boolean;
  ref?: string;
}
interface SaveQuery {
  ref: string | string[];
  format: ArchiveFormat;
}

export function imageRoutes(app: FastifyInstance, door: DoorContext): void {
  app.get(
    '/v1/images',
    { schema: route('All images, the newest first', { tag, answer: list(ref('ImageSummary')) }) },
    (request, reply) => answerList(door, request, reply, door.engine.images()),
  );
  app.get<{ Params: Named }>(
    '/v1/images/:name',
    { schema: route('One image', { tag, params, answer: ref('ImageDetail') }) },
    async (request) => door.engine.image(request.params.name),
  );
  app.get<{ Params: Named }>(
    '/v1/images/:name/history',
    {
      schema: route('How an image came to be, newest instruction first', {
        tag,
        params,
        answer: list(ref('HistoryRow')),
      }),
    },
    async (request) => door.engine.history(request.params.name),
  );
  app.post<{ Params: Named; Body: ExtendBody }>(
    '/v1/images/:name/extend',
    {
      schema: route('Make an image of this one and a layer that is here', {
        tag,
        params,
        body: object<ExtendBody>(
          { ...imageChanges, layer: about(nullable(digest), "Its diff ID; null: another image's config alone.") },
          ['ref', 'author', 'message', 'changes'],
        ),
        answer: ref('ExtendedImage'),
      }),
    },
    async (request) => door.engine.extendImage(request.params.name, request.body),
  );
  app.post<{ Params: Named; Body: { target: string } }>(
    '/v1/images/:name/tag',
    {
      schema: route('Give an image one more ref', {
        tag,
        params,
        body: object<{ target: string }>({ target: name }),
        answer: ref('ImageSummary'),
      }),
    },
    (request) => door.engine.tag(request.params.name, request.body.target),
  );
  app.delete<{ Params: Named; Querystring: { force?: boolean } }>(
    '/v1/images/:name',
    {
      schema: route('Remove a ref, and the image with its last one', {
        tag,
        params,
        querystring: options<{ force?: boolean }>({ force: yes }),
        answer: ref('RemovedImage'),
      }),
    },
    (request) => door.once(request, (once) => door.engine.removeImage(request.params.name, request.query, once)),
  );
  archiveRoutes(app, door);
}

function archiveRoutes(app: FastifyInstance, door: DoorContext): void {
  app.get<{ Querystring: SaveQuery }>(
    '/v1/images/save',
    {
      schema: route('Images as one archive', {
        tag,
        querystring: object<SaveQuery>({
          ref: { anyOf: [name, { ...list(name), minItems: 1 }] },
          format: oneWord('docker', 'oci'),
        }),
        response: streams(TAR, 'The archive. The header x-layerd-notice says what differs from the original.', binary),
      }),
    },
    async (request, reply) => {
      const saving = { refs: asList(request.query.ref), format: request.query.format };
      const { stream, notice } = await door.engine.save(saving, door.operations.signalOf(reply.raw));
      // a header is Latin-1: what does not fit in is escaped
      const headers = notice === '' ? {} : { 'x-layerd-notice': encodeURI(notice).replaceAll('%20', ' ') };
      await answerBytes(door, request, reply, stream, headers);
    },
  );
  uploadRoute<LoadQuery>(app, door, '/v1/images/load', loadSchema, (archive, request, progress, signal) =>
    door.engine.load(archive, loadOptions(request.query), progress, signal),
  );
}

const loadSchema = route('Load images from an archive', {
  tag,
  description:
    'The body is a docker-archive or OCI archive (tar, plain or compressed), taken as fast as it can be stored. A client ' +
    `on the same machine may instead name an open descriptor of its own in the header ${DESCRIPTOR_HEADER}: a file, or ` +
    'a directory with an OCI layout. The daemon then reads it by itself, in parallel, and skips what is there already.',
  headers: { type: 'object', properties: descriptorHeader },
  querystring: options<LoadQuery>({
    platform: about(text, 'OS/ARCHITECTURE[/VARIANT] to take from an archive with several; default: this machine.'),
    allPlatforms: yes,
    ref: about(name, 'Names the image, where the archive holds exactly one.'),
  }),
  response: streams(NDJSON, 'Progress, then the result or an error.', streamLine('LoadResult')),
});

function loadOptions(query: LoadQuery): LoadOptions {
  const { platform, ...rest } = query;
  return { ...rest, ...(platform === undefined ? {} : { platform: parsePlatform(platform) }) };
}
