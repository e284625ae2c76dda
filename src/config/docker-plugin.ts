/** How dockerd finds layerd's graph driver: a file with its socket, and two lines of its own configuration. */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LayerdError } from '../core/errors.js';

/** Where dockerd looks for plugins that are sockets (docs.docker.com, "Docker Plugin API", plugin discovery). */
export const PLUGIN_DIRECTORY = '/etc/docker/plugins';

export interface DockerPlugin {
  /** The storage driver's name in Docker. */
  name: string;
  directory: string;
  socket: string;
}

/** Writes the plugin's file; returns its path. Throws INVALID_ARGUMENT where there is no socket to name. */
export function writeDockerPlugin({ name, directory, socket }: DockerPlugin): string {
  if (socket === 'off') {
    throw new LayerdError('INVALID_ARGUMENT', 'the door for Docker is switched off (docker_socket)', {
      hint: 'Set docker_socket to a path, restart layerd, and install the plugin then.',
    });
  }
  if (!/^[a-z0-9][a-z0-9_.-]*$/.test(name)) {
    throw new LayerdError('INVALID_ARGUMENT', `${JSON.stringify(name)} is not a name for a plugin`, {
      hint: 'Small letters, digits, and behind the first also _ . -',
    });
  }
  const file = join(directory, `${name}.spec`);
  mkdirSync(directory, { recursive: true });
  writeFileSync(`${file}.part`, `unix://${socket}\n`);
  renameSync(`${file}.part`, file);
  return file;
}

/** What to do with it. */
export function dockerLines({ name }: Pick<DockerPlugin, 'name'>): string {
  return `# /etc/docker/daemon.json (Docker 20.10 to 27; newer ones use layerd through containerd)
${JSON.stringify({ experimental: true, 'storage-driver': name }, null, 2)}

# then restart dockerd: systemctl restart docker
`;
}
