/** The config.json of an OCI runtime bundle (OCI runtime specification 1.0, config.md and config-linux.md). */
import { existsSync } from 'node:fs';
import { LayerdError } from '../../core/errors.js';
import { UsageError } from '../exit-codes.js';
import { userOf, type ContainerUser } from './user.js';

/** How an image wants to be run (OCI image specification, config.md). Checked by the daemon when it took the image in. */
export interface ImageRunConfig {
  User?: string;
  Env?: string[] | null;
  Entrypoint?: string[] | null;
  Cmd?: string[] | null;
  WorkingDir?: string;
}

/** What is asked for beside or instead of what the image says. */
export interface ProcessOptions {
  /** Takes the place of the image's command; empty: that of the image. */
  command: readonly string[];
  /** Takes the place of the image's entrypoint, and drops the image's command; '' for none. */
  entrypoint?: string;
  /** `NAME=value`, or `NAME` for the value that it has here. */
  env: readonly string[];
  workdir?: string;
  user?: string;
  terminal: boolean;
  readOnly: boolean;
  network: 'none' | 'host';
  hostname: string;
}

/** A runtime's default, as containers of other tools have it. */
const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

const CAPABILITIES = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FSETID',
  'FOWNER',
  'MKNOD',
  'NET_RAW',
  'SETGID',
  'SETUID',
  'SETFCAP',
  'SETPCAP',
  'NET_BIND_SERVICE',
  'SYS_CHROOT',
  'KILL',
  'AUDIT_WRITE',
].map((name) => `CAP_${name}`);

/** What a process in a container could learn about the machine, or break it with. */
const MASKED = ['acpi', 'kcore', 'keys', 'latency_stats', 'timer_list', 'timer_stats', 'sched_debug', 'scsi'].map(
  (name) => `/proc/${name}`,
);
const READ_ONLY = ['bus', 'fs', 'irq', 'sys', 'sysrq-trigger'].map((name) => `/proc/${name}`);

const TMPFS = ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'];
const MOUNTS = [
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: TMPFS },
  { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
];

/** Name service of the host, for containers on its network. */
const HOST_FILES = ['/etc/resolv.conf', '/etc/hosts'];

/** The arguments of the process. Throws INVALID_ARGUMENT where nobody names a program. */
export function argumentsOf(image: ImageRunConfig, options: Pick<ProcessOptions, 'command' | 'entrypoint'>): string[] {
  const { entrypoint, command } = options;
  const first = entrypoint === undefined ? (image.Entrypoint ?? []) : [entrypoint].filter((word) => word !== '');
  const rest = command.length > 0 || entrypoint !== undefined ? command : (image.Cmd ?? []);
  const all = [...first, ...rest];
  // what stands behind the image is the program's; only an entrypoint can mean an option that comes first there
  if (first.length === 0 && command[0]?.startsWith('-') === true) {
    throw new UsageError(
      `${command[0]} stands where the program should`,
      'Options go before the image: layerctl run [OPTION…] IMAGE PROGRAM [ARGUMENT…].',
    );
  }
  if (all.length > 0) return all;
  throw new LayerdError('INVALID_ARGUMENT', 'the image names no program to run', {
    hint: 'Name one behind the image: layerctl run IMAGE PROGRAM [ARGUMENT…].',
  });
}

/** The whole document for a container that is mounted at `root`; users and groups are looked up there. */
export async function runtimeSpec(root: string, image: ImageRunConfig, options: ProcessOptions): Promise<object> {
  const user = await userOf(root, options.user ?? image.User ?? '');
  const { uid, gid, additionalGids } = user;
  const bounding = CAPABILITIES;
  const held = uid === 0 ? CAPABILITIES : [];
  const files = options.network === 'host' ? HOST_FILES.filter((path) => existsSync(path)) : [];
  return {
    ociVersion: '1.0.2',
    root: { path: root, readonly: options.readOnly },
    hostname: options.hostname,
    process: {
      terminal: options.terminal,
      ...consoleSize(options),
      user: { uid, gid, additionalGids },
      args: argumentsOf(image, options),
      env: environmentOf(image, options, user),
      cwd: directoryOf(image, options),
      capabilities: { bounding, effective: held, permitted: held },
      noNewPrivileges: false,
    },
    mounts: [
      ...MOUNTS,
      ...files.map((path) => ({ destination: path, type: 'bind', source: path, options: ['rbind', 'ro'] })),
    ],
    linux: {
      namespaces: namespacesOf(options).map((type) => ({ type })),
      resources: { devices: [{ allow: false, access: 'rwm' }] },
      maskedPaths: [...MASKED, '/sys/firmware'],
      readonlyPaths: READ_ONLY,
    },
  };
}

/** The runtime follows our terminal from the first change of its size on; before that it is told. */
function consoleSize({ terminal }: ProcessOptions): object {
  const { isTTY, rows, columns } = process.stdout;
  return terminal && isTTY ? { consoleSize: { height: rows, width: columns } } : {};
}

function namespacesOf({ network }: ProcessOptions): string[] {
  return ['pid', 'ipc', 'uts', 'mount', ...(network === 'none' ? ['network'] : [])];
}

/** The image's own first, then what was asked for; a later value of a name takes the place of an earlier one. */
function environmentOf(
  image: ImageRunConfig,
  { env, terminal, hostname }: ProcessOptions,
  user: ContainerUser,
): string[] {
  const given = env.flatMap((word) => {
    if (word.includes('=')) return [word];
    const here = process.env[word];
    return here === undefined ? [] : [`${word}=${here}`];
  });
  const defaults = [PATH, `HOSTNAME=${hostname}`, `HOME=${user.home}`, ...(terminal ? ['TERM=xterm'] : [])];
  const byName = new Map([...defaults, ...(image.Env ?? []), ...given].map((word) => [word.split('=', 1)[0], word]));
  return [...byName.values()];
}

function directoryOf(image: ImageRunConfig, { workdir }: ProcessOptions): string {
  const wanted = workdir ?? image.WorkingDir ?? '';
  return wanted.startsWith('/') ? wanted : `/${wanted}`;
}
