/** dockerd's side of docker.graphdriver/1.0, for tests: one connection for each request. */
import { request } from 'node:http';

export interface Reply {
  status: number;
  body: Buffer;
  /** The connection broke before the end of the answer. */
  broken: boolean;
}

export class GraphDriverClient {
  private readonly socket: string;

  constructor(socket: string) {
    this.socket = socket;
  }

  /** One request; `cut` breaks the connection behind the body instead of ending it. */
  ask(path: string, body: Buffer, cut = false): Promise<Reply> {
    return new Promise((resolve, reject) => {
      // chunked and without a content type, as dockerd sends both JSON and tars
      const headers = { accept: 'application/vnd.docker.plugins.v1.2+json', 'transfer-encoding': 'chunked' };
      const sent = request({ socketPath: this.socket, method: 'POST', path, headers, agent: false }, (answer) => {
        const chunks: Buffer[] = [];
        const ended = (broken: boolean): void =>
          resolve({ status: answer.statusCode ?? 0, body: Buffer.concat(chunks), broken });
        answer.on('data', (chunk: Buffer) => chunks.push(chunk));
        answer.on('end', () => ended(false));
        answer.on('error', () => ended(true));
      });
      sent.on('error', cut ? () => resolve({ status: 0, body: Buffer.alloc(0), broken: true }) : reject);
      if (cut) sent.write(body, () => sent.destroy());
      else sent.end(body);
    });
  }

  /** What a verb answers: `Err` where it is refused. */
  async verb(name: string, body: object = {}): Promise<Record<string, unknown>> {
    return answerOf(await this.ask(`/GraphDriver.${name}`, Buffer.from(JSON.stringify(body))));
  }

  /** Sends the bytes of a layer. */
  async apply(id: string, parent: string, tar: Buffer): Promise<Record<string, unknown>> {
    return answerOf(await this.ask(`/GraphDriver.ApplyDiff?id=${id}&parent=${parent}`, tar));
  }

  /** The bytes of a layer, or of what a container changed. */
  diff(id: string, parent: string): Promise<Reply> {
    return this.ask('/GraphDriver.Diff', Buffer.from(JSON.stringify({ ID: id, Parent: parent })));
  }
}

/** Throws where the daemon went away in the middle. */
function answerOf({ body, broken }: Reply): Record<string, unknown> {
  if (broken) throw Object.assign(new Error('the answer broke off'), { code: 'ECONNRESET' });
  return JSON.parse(body.toString('utf8')) as Record<string, unknown>;
}
