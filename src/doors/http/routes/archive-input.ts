/** Requests that bring an archive: as their body, or as a descriptor that their client has open. */
import type { FastifyInstance, FastifyRequest, FastifySchema } from 'fastify';
import type { ArchiveInput, OnProgress } from '../../../core/api.js';
import type { ClientDescriptor } from '../../peer.js';
import { answerWithProgress } from '../answers.js';
import { uploadOf } from '../body.js';
import type { DoorContext } from '../context.js';

/** The header that names a descriptor of the client instead of a body. */
export const DESCRIPTOR_HEADER = 'x-layerd-fd';

/** Its schema. */
export const descriptorHeader = { [DESCRIPTOR_HEADER]: { type: 'integer', minimum: 0, maximum: 2 ** 31 - 1 } };

/** A route that takes an archive, and answers progress and a result. */
export function uploadRoute<Query>(
  app: FastifyInstance,
  door: DoorContext,
  path: string,
  schema: FastifySchema,
  work: (
    archive: ArchiveInput,
    request: FastifyRequest<{ Querystring: Query }>,
    progress: OnProgress,
    signal: AbortSignal,
  ) => Promise<unknown>,
): void {
  void app.register((uploads, _options, done) => {
    uploads.removeAllContentTypeParsers();
    uploads.addContentTypeParser('*', (_request, _payload, parsed) => parsed(null));
    uploads.post<{ Querystring: Query }>(path, { schema }, async (request, reply) => {
      const { archive, descriptor } = archiveOf(door, request);
      try {
        await answerWithProgress(door, request as FastifyRequest, reply, (progress, signal) =>
          work(archive, request, progress, signal),
        );
      } finally {
        descriptor?.close();
      }
    });
    done();
  });
}

function archiveOf(
  door: DoorContext,
  request: Pick<FastifyRequest, 'headers' | 'raw'>,
): { archive: ArchiveInput; descriptor: ClientDescriptor | null } {
  const fd = request.headers[DESCRIPTOR_HEADER];
  if (fd !== undefined) {
    const descriptor = door.takeDescriptor(request as FastifyRequest, Number(fd));
    return { archive: { path: descriptor.path }, descriptor };
  }
  const length = request.headers['content-length'];
  const size = length === undefined ? null : Number(length);
  return { archive: { stream: uploadOf(request.raw, door.stallMs), size }, descriptor: null };
}
