import type { FastifyInstance } from 'fastify';
import { answerBytes, answerList, TAR } from '../answers.js';
import type { DoorContext } from '../context.js';
import { about, list, name, object, ref } from '../schema.js';
import { binary, route, streams } from './route.js';

const tag = 'layers';

interface Params {
  digest: string;
}
const params = object<Params>({ digest: about(name, 'A diff ID or a unique prefix of one.') });

export function layerRoutes(app: FastifyInstance, door: DoorContext): void {
  app.get(
    '/v1/layers',
    { schema: route('All layers, the oldest first', { tag, answer: list(ref('LayerSummary')) }) },
    (request, reply) => answerList(door, request, reply, door.engine.layers()),
  );
  app.get(
    '/v1/layer-tree',
    { schema: route('All chains of layers, as the tree they form', { tag, answer: list(ref('LayerTreeNode')) }) },
    (request, reply) => answerList(door, request, reply, door.engine.layerTree()),
  );
  app.get<{ Params: Params }>(
    '/v1/layers/:digest',
    { schema: route('One layer', { tag, params, answer: ref('LayerSummary') }) },
    async (request) => door.engine.layer(request.params.digest),
  );
  app.get<{ Params: Params }>(
    '/v1/layers/:digest/tar',
    {
      schema: route('The uncompressed tar of a layer, bit for bit', {
        tag,
        params,
        response: streams(TAR, 'The tar; the header x-layerd-diff-id carries its digest.', binary),
      }),
    },
    async (request, reply) => {
      const signal = door.operations.signalOf(reply.raw);
      const { stream, size, diffId } = await door.engine.layerTar(request.params.digest, signal);
      await answerBytes(door, request, reply, stream, { 'content-length': size, 'x-layerd-diff-id': diffId });
    },
  );
}
