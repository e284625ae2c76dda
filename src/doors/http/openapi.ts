import fastify, { type FastifyInstance } from 'fastify';
import { addComponents, schemaController } from './compilers.js';

/**
 * The OpenAPI document of these routes. An instance that serves nothing makes it, since what it takes need not be in memory
 * where nobody asks.
 */
export async function describeRoutes(version: string, addRoutes: (app: FastifyInstance) => void): Promise<object> {
  const { default: swagger } = await import('@fastify/swagger');
  const app = fastify({ logger: false, exposeHeadRoutes: false, schemaController });
  addComponents(app);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'layerd',
        version,
        description: 'A copy-on-write storage engine for container layers.',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
    },
    refResolver: {
      buildLocalReference: (json, _base, _fragment, index) =>
        typeof json['$id'] === 'string' ? json['$id'] : `schema${index}`,
    },
  });
  await app.register((routes, _options, done) => {
    addRoutes(routes);
    done();
  });
  await app.ready();
  return app.swagger();
}
