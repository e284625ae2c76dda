/** Debian's docker-registry on loopback, with a store of its own. */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, connect, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export class RealRegistry {
  readonly host: string;
  private readonly directory: string;
  private readonly child: ChildProcess;

  private constructor(host: string, directory: string, child: ChildProcess) {
    this.host = host;
    this.directory = directory;
    this.child = child;
  }

  static async start(http: object = {}, auth: object = {}): Promise<RealRegistry> {
    const directory = mkdtempSync(join(tmpdir(), 'layerd-registry-'));
    const port = await freePort();
    const host = `127.0.0.1:${port}`;
    const config = join(directory, 'config.yml');
    // YAML takes JSON
    const document = {
      version: 0.1,
      log: { level: 'error' },
      storage: { filesystem: { rootdirectory: join(directory, 'data') }, delete: { enabled: true } },
      http: { addr: host, ...http },
      ...auth,
    };
    writeFileSync(config, JSON.stringify(document));
    const child = spawn('docker-registry', ['serve', config], { stdio: 'ignore' });
    const registry = new RealRegistry(host, directory, child);
    await listening(port);
    return registry;
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill('SIGKILL');
    await ended;
    rmSync(this.directory, { recursive: true, force: true });
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function listening(port: number): Promise<void> {
  for (let tries = 0; tries < 600; tries += 1) {
    const connected = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.destroy();
        resolve(true);
      });
      socket.once('error', () => resolve(false));
    });
    if (connected) return;
    await sleep(50);
  }
  throw new Error(`no registry listens at port ${port}`);
}
