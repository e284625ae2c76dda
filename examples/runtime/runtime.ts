/**
 * A container runtime on layerd's client: loads an image, gives a program a root of its own in namespaces of its own, and
 * commits what it changed. Needs root, a running layerd, and unshare(1) of util-linux.
 *
 *   node dist/examples/runtime/runtime.js IMAGE [--load ARCHIVE] [--commit REF] [-- PROGRAM [ARGUMENT…]]
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { LayerdClient } from '../../src/client/index.js';

export interface Wanted {
  image: string;
  /** A docker-archive, OCI archive or OCI layout that brings the image; layers that are here are not read. */
  archive?: string | undefined;
  /** The name of an image that is made of the changes. */
  commit?: string | undefined;
  /** In place of the image's own program. */
  command: readonly string[];
}

/** The part of an image's config that a runtime goes by (OCI image specification, config.md). */
interface Process {
  Env?: string[] | null;
  Entrypoint?: string[] | null;
  Cmd?: string[] | null;
  WorkingDir?: string;
}

/** Runs the program to its end and returns its exit code; nothing of the container is left but what is committed. */
export async function runContainer(layerd: LayerdClient, wanted: Wanted): Promise<number> {
  // 1. The layers: each is stored once, whatever else has it.
  if (wanted.archive !== undefined) await layerd.load(wanted.archive, { ref: wanted.image });
  const { config } = (await layerd.image(wanted.image)).config as { config?: Process };
  // 2. A container is a writable layer upon them. It is new: nobody knows it, so nobody can hold us up.
  const { id } = await layerd.createContainer(wanted.image);
  try {
    // 3. Its root, as one tree. Every mount needs its unmount.
    const { path } = await layerd.mount(id);
    try {
      const code = await execute(path, config ?? {}, wanted.command);
      // 4. What it changed becomes a layer, and with those below an image.
      if (wanted.commit !== undefined && code === 0) await layerd.commit(id, { ref: wanted.commit });
      return code;
    } finally {
      await layerd.unmount(id);
    }
  } finally {
    await layerd.removeContainer(id);
  }
}

/** The program in namespaces of its own: it sees its root, its processes, no network, and a name that is not ours. */
function execute(root: string, config: Process, command: readonly string[]): Promise<number> {
  const program = [...(config.Entrypoint ?? []), ...(command.length > 0 ? command : (config.Cmd ?? []))];
  if (program.length === 0) throw new Error('the image names no program: name one behind --');
  const isolation = ['--mount', '--pid', '--uts', '--ipc', '--net', '--cgroup', '--fork', '--kill-child'];
  const place = ['--root', root, '--wd', config.WorkingDir || '/', '--mount-proc=/proc'];
  const child = spawn('unshare', [...isolation, ...place, '--', ...program], {
    env: Object.fromEntries((config.Env ?? []).map(splitVariable)),
    stdio: 'inherit',
  });
  // Ctrl-C reaches the program by the terminal; what others send us is handed on.
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.on('SIGINT', ignore).on('SIGTERM', forward).on('SIGHUP', forward);
  return new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
  }).finally(() => process.off('SIGINT', ignore).off('SIGTERM', forward).off('SIGHUP', forward));
}

function splitVariable(variable: string): [string, string] {
  const [name = '', ...value] = variable.split('=');
  return [name, value.join('=')];
}

function ignore(): void {
  // Until the program has ended there is something to put away.
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values, positionals } = parseArgs({
    options: { load: { type: 'string' }, commit: { type: 'string' } },
    allowPositionals: true,
  });
  const [image, ...command] = positionals;
  if (image === undefined) throw new Error('name an image');
  const layerd = new LayerdClient();
  process.exitCode = await runContainer(layerd, { image, archive: values.load, commit: values.commit, command });
  layerd.close();
}
