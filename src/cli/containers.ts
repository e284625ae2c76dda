/** create ps mount unmount changes diff export commit rm */
import type { Command } from 'commander';
import { parseSize } from '../core/units.js';
import type { Change, CommitResult, ContainerSummary, CreateContainerOptions, Usage } from '../core/words.js';
import { advised, collect, labels, type Cli } from './cli.js';
import { UsageError } from './exit-codes.js';
import { age, bytes, shortId, table } from './format.js';
import { endRun, isLive, runOf } from './oci/runs.js';
import { refuseTerminal, writeArchive } from './sink.js';

interface CreateFlags {
  name?: string;
  readOnly?: boolean;
  label?: string[];
  size?: string;
  volatile?: boolean;
}
interface CommitFlags {
  author?: string;
  message?: string;
  change?: string[];
  pause?: string;
}

const DETACH =
  'End the processes that use it, or unmount it with -f (--force): it is then detached, and goes when they end.';

export function containerCommands(program: Command, cli: Cli): void {
  program
    .command('create <image>')
    .description('make a container from an image; prints its id')
    .option('--name <name>', 'name it')
    .option('--read-only', 'it cannot be written to')
    .option('--label <key=value>', 'label it; may be repeated', collect)
    .option('--size <bytes>', 'how much it may hold for itself, such as 10G')
    .option('--volatile', 'what it writes need not survive a crash: faster')
    .action((image: string, flags: CreateFlags) => create(cli, image, flags));
  program
    .command('ps')
    .description('list containers')
    .option('-s, --size', 'with what each holds for itself')
    .action((flags: { size?: boolean }) => list(cli, flags.size === true));
  program
    .command('mount <container>')
    .description('mount a container; prints the path of its root')
    .option('--instructions', 'only say how: for a runtime that mounts by itself')
    .action((container: string, flags: { instructions?: boolean }) => mount(cli, container, flags));
  program
    .command('unmount <container...>')
    .alias('umount')
    .description('give a mount back; n mounts need n unmounts')
    .option('-f, --force', 'all of them, even if something still uses them')
    .action(async (containers: string[], flags: { force?: boolean }) => {
      const left = await cli.each(containers, async (name) => ({
        name,
        ...(await advised(cli.client.unmount(name, flags), { MOUNT_BUSY: DETACH })),
      }));
      cli.print({ data: left, ids: left.map(({ name }) => name), human: () => '' });
    });
  program
    .command('rm <container...>')
    .description('remove containers; prints their ids')
    .option('-f, --force', 'also mounted ones')
    .action(async (containers: string[], flags: { force?: boolean }) => {
      const removed = await cli.each(containers, (name) => remove(cli, name, flags));
      const ids = removed.map(({ id }) => id);
      cli.print({ data: removed, ids, human: () => ids.map((id) => `${id}\n`).join('') });
    });
  contentCommands(program, cli);
}

/** What a container holds. */
function contentCommands(program: Command, cli: Cli): void {
  program
    .command('changes <container>')
    .description('what a container changed: A added, C changed, D deleted')
    .action((container: string) => changes(cli, container));
  program
    .command('diff <container>')
    .description('the changes as a layer tar')
    .option('-o, --output <file>', 'the file (default: standard output)')
    .action((container: string, { output }: { output?: string }) =>
      archive(cli, output, () => cli.client.diff(container, cli.signal)),
    );
  program
    .command('export <container>')
    .description('the whole root as a tar')
    .option('-o, --output <file>', 'the file (default: standard output)')
    .action((container: string, { output }: { output?: string }) =>
      archive(cli, output, () => cli.client.exportContainer(container, cli.signal)),
    );
  program
    .command('commit <container> [ref]')
    .description('make a layer and an image of the changes; prints the image id')
    .option('-a, --author <author>', 'who made it')
    .option('-m, --message <text>', 'a comment for the history')
    .option(
      '-c, --change <instruction>',
      'a Dockerfile instruction for the config, such as \'CMD ["sh"]\'; may be repeated',
      collect,
    )
    .option('--pause <cgroup>', "freeze this cgroup while the container's files are read")
    .action((container: string, ref: string | undefined, flags: CommitFlags) => commit(cli, container, ref, flags));
}

async function create(cli: Cli, image: string, flags: CreateFlags): Promise<void> {
  const { label = [], size, ...rest } = flags;
  const options: CreateContainerOptions = { ...rest, labels: labels(label) };
  if (size !== undefined) options.sizeLimit = sizeOf(size);
  const container = await cli.client.createContainer(image, options);
  cli.print({ data: container, ids: [container.id], human: () => `${container.id}\n` });
}

function sizeOf(text: string): number {
  const size = parseSize(text);
  if (size === null) throw new UsageError(`${text} is not a size`, 'Sizes look like 512M or 10G.');
  return size;
}

async function list(cli: Cli, withSize: boolean): Promise<void> {
  const containers = await cli.client.containers();
  const usages: (Usage | null)[] = [];
  for (const { id } of containers) usages.push(withSize ? await cli.client.usage(id) : null);
  const rows = containers.map((container, index) => ({ container, usage: usages[index] ?? null }));
  cli.print({
    data: rows.map(({ container, usage }) => Object.assign({}, container, usage === null ? {} : { usage })),
    ids: containers.map(({ id }) => id),
    human: () => containerTable(rows, withSize),
  });
}

function stateOf({ mounts, readOnly }: ContainerSummary): string {
  const mounted = mounts > 1 ? `mounted ×${mounts}` : 'mounted';
  return `${mounts === 0 ? 'not mounted' : mounted}${readOnly ? ', read-only' : ''}`;
}

function containerTable(
  rows: readonly { container: ContainerSummary; usage: Usage | null }[],
  withSize: boolean,
): string {
  return table(rows, [
    { title: 'CONTAINER ID', value: ({ container }) => shortId(container.id) },
    { title: 'NAME', value: ({ container }) => container.name },
    { title: 'IMAGE', value: ({ container }) => shortId(container.image) },
    { title: 'CREATED', value: ({ container }) => age(container.created) },
    { title: 'STATE', value: ({ container }) => stateOf(container) },
    ...(withSize
      ? [
          {
            title: 'SIZE',
            value: ({ usage }: { usage: Usage | null }) => (usage === null ? '' : bytes(usage.bytes)),
            right: true,
          },
        ]
      : []),
    { title: 'PATH', value: ({ container }) => container.path ?? '' },
  ]);
}

/** Removes a container, and first what a `layerctl run` that was killed has left of it. Forced: also while it runs. */
async function remove(cli: Cli, name: string, flags: { force?: boolean }): Promise<{ id: string }> {
  const { client } = cli;
  const container = await client.container(name);
  const run = await runOf(container);
  if (run !== null && (flags.force === true || !(await isLive(run)))) await endRun(client, { ...run, remove: false });
  return advised(client.removeContainer(container.id, flags), {
    CONTAINER_MOUNTED: 'Unmount it first, or remove it with -f (--force).',
  });
}

async function mount(cli: Cli, container: string, flags: { instructions?: boolean }): Promise<void> {
  if (flags.instructions !== true) {
    const mounted = await cli.client.mount(container);
    cli.print({ data: mounted, ids: [mounted.path], human: () => `${mounted.path}\n` });
    return;
  }
  const instructions = await cli.client.mountInstructions(container);
  const lines = instructions.map(
    ({ type, source, options }) => `mount -t ${type} -o ${options.join(',')} ${source} TARGET\n`,
  );
  cli.print({ data: instructions, ids: lines.map((line) => line.trimEnd()), human: () => lines.join('') });
}

async function changes(cli: Cli, container: string): Promise<void> {
  const found = cli.client.changes(container, cli.signal);
  if (cli.options.json === true) {
    const all: Change[] = [];
    for await (const change of found) all.push(change);
    cli.write(`${JSON.stringify(all, null, 2)}\n`);
    return;
  }
  // there may be very many: printed as they come
  const quiet = cli.options.quiet === true;
  for await (const { kind, path } of found) cli.write(quiet ? `${path}\n` : `${kind} ${path}\n`);
}

async function archive(
  cli: Cli,
  output: string | undefined,
  open: () => Promise<AsyncIterable<Buffer>>,
): Promise<void> {
  const toFile = output !== undefined && output !== '-';
  if (cli.options.json === true && !toFile)
    throw new UsageError('--json needs -o FILE', 'The tar takes standard output.');
  refuseTerminal(output);
  const written = await writeArchive(await open(), output);
  if (toFile) cli.print({ data: { output, bytes: written }, ids: [], human: () => '' });
}

async function commit(cli: Cli, container: string, ref: string | undefined, flags: CommitFlags): Promise<void> {
  const { author, message, change, pause } = flags;
  const options = {
    ...(ref === undefined ? {} : { ref }),
    ...(author === undefined ? {} : { author }),
    ...(message === undefined ? {} : { message }),
    ...(change === undefined ? {} : { changes: change }),
    ...(pause === undefined ? {} : { pauseCgroup: pause }),
  };
  const result = await cli.watched((watch) => cli.client.commit(container, { ...options, ...watch }));
  cli.print({ data: result, ids: [result.imageId], human: () => `${result.imageId}\n` });
  for (const note of commitNotes(result)) cli.note(note);
}

function commitNotes({ diffId, size, whileMounted }: CommitResult): string[] {
  const layer =
    diffId === null ? 'nothing had changed: no layer was made' : `new layer ${shortId(diffId)} (${bytes(size)})`;
  const mounted = 'the container was mounted meanwhile: the layer has what each file held when it was read';
  return whileMounted ? [layer, mounted] : [layer];
}
