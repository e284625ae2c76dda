/** run bundle: containers for OCI runtimes */
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { LayerdError } from '../core/errors.js';
import { collect, type Cli } from './cli.js';
import { EXIT, UsageError } from './exit-codes.js';
import { makeDirectory, writingTo } from './files.js';
import { beginRun, endRun, RUN_LABEL, sweepRuns, type Run } from './oci/runs.js';
import { findRuntime, runBundle, SignalForwarder, type RunOutcome } from './oci/runtime.js';
import { argumentsOf, runtimeSpec, type ImageRunConfig, type ProcessOptions } from './oci/spec.js';

interface ProcessFlags {
  name?: string;
  env?: string[];
  workdir?: string;
  user?: string;
  entrypoint?: string;
  readOnly?: boolean;
  tty?: boolean;
  network: 'none' | 'host';
}
interface RunFlags extends ProcessFlags {
  rm?: boolean;
  interactive?: boolean;
  runtime?: string;
}

export function runCommands(program: Command, cli: Cli): void {
  const run = program
    .command('run <image> [command...]')
    .description('run a program in a new container by runc or crun; exits as the program does')
    .option('--rm', 'remove the container when the program has ended')
    .option('-i, --interactive', 'the program reads our standard input')
    .addOption(new Option('--runtime <program>', 'the OCI runtime (default: runc, else crun)'));
  withProcessOptions(run).action(async (image: string, command: string[], flags: RunFlags) => {
    process.exitCode = await runImage(cli, image, command, flags).catch((error: unknown) => {
      cli.fail(error);
      return error instanceof UsageError ? EXIT.usage : EXIT.notRun;
    });
  });
  const bundle = program
    .command('bundle <image> <dir> [command...]')
    .description('make and mount a container, and write the OCI runtime bundle of it; prints its id');
  withProcessOptions(bundle).action((image: string, dir: string, command: string[], flags: ProcessFlags) =>
    writeBundle(cli, { image, dir: resolve(dir), command }, flags),
  );
}

function withProcessOptions(command: Command): Command {
  return command
    .option('--name <name>', 'name the container')
    .option('-t, --tty', 'the program gets a terminal')
    .option('-e, --env <name=value>', 'set a variable, or hand on our own of that name; may be repeated', collect)
    .option('-w, --workdir <dir>', "where the program starts, in place of the image's")
    .option('-u, --user <user>', "NAME or UID, with :GROUP, in place of the image's")
    .option('--entrypoint <program>', "run this in place of the image's entrypoint; '' for none")
    .option('--read-only', 'the program cannot write to its root')
    .addOption(new Option('--network <kind>', "its own, or the host's").choices(['none', 'host']).default('none'));
}

function processOptions(command: readonly string[], flags: ProcessFlags, hostname: string): ProcessOptions {
  const { env = [], workdir, user, entrypoint, network } = flags;
  return {
    command,
    env,
    network,
    hostname,
    terminal: flags.tty ?? false,
    readOnly: flags.readOnly ?? false,
    ...(workdir === undefined ? {} : { workdir }),
    ...(user === undefined ? {} : { user }),
    ...(entrypoint === undefined ? {} : { entrypoint }),
  };
}

/** The run config of an image, after a look at whether there is anything to run. */
async function runConfigOf(cli: Cli, image: string, wanted: ProcessOptions): Promise<ImageRunConfig> {
  const { config } = (await cli.client.image(image)).config as { config?: ImageRunConfig | null };
  argumentsOf(config ?? {}, wanted);
  return config ?? {};
}

/** The exit code: that of the program. */
async function runImage(cli: Cli, image: string, command: readonly string[], flags: RunFlags): Promise<number> {
  if (flags.tty === true && !process.stdin.isTTY) {
    throw new UsageError('-t needs a terminal, and standard input is none', 'Leave -t out.');
  }
  const { client } = cli;
  const runtime = findRuntime(flags.runtime);
  const signals = new SignalForwarder();
  try {
    await sweepRuns(client);
    const run = await beginRun({ socket: client.socket, runtime, remove: flags.rm ?? false });
    let outcome: RunOutcome | null = null;
    try {
      outcome = await foreground(cli, { run, image, command, flags, signals });
    } finally {
      // a container whose runtime was never started holds nothing but the name that the next try wants
      await endRun(client, outcome === null ? { ...run, remove: true } : run);
    }
    return outcome.started ? outcome.code : EXIT.notRun;
  } finally {
    signals.end();
  }
}

async function foreground(
  cli: Cli,
  parts: { run: Run; image: string; command: readonly string[]; flags: RunFlags; signals: SignalForwarder },
): Promise<RunOutcome> {
  const { run, image, command, flags, signals } = parts;
  const config = await runConfigOf(cli, image, processOptions(command, flags, ''));
  const { id, name } = await cli.client.createContainer(image, {
    ...(flags.name === undefined ? {} : { name: flags.name }),
    labels: { [RUN_LABEL]: run.key },
    volatile: run.remove,
  });
  const { path } = await cli.client.mount(id);
  await writeSpec(run.directory, await runtimeSpec(path, config, processOptions(command, flags, name)));
  const interactive = flags.interactive ?? false;
  return runBundle(run.runtime, { bundle: run.directory, id: run.key, interactive }, signals);
}

async function writeBundle(
  cli: Cli,
  { image, dir, command }: { image: string; dir: string; command: readonly string[] },
  flags: ProcessFlags,
): Promise<void> {
  const { client } = cli;
  if (existsSync(join(dir, 'config.json'))) {
    throw new LayerdError('INVALID_ARGUMENT', `${dir} holds a bundle already`, {
      details: { directory: dir },
      hint: 'Name another directory, or remove its config.json.',
    });
  }
  const config = await runConfigOf(cli, image, processOptions(command, flags, ''));
  const container = await client.createContainer(image, flags.name === undefined ? {} : { name: flags.name });
  try {
    const { path } = await client.mount(container.id);
    await makeDirectory(dir);
    await writeSpec(dir, await runtimeSpec(path, config, processOptions(command, flags, container.name)));
  } catch (error) {
    await client.removeContainer(container.id, { force: true });
    throw error;
  }
  cli.print({ data: { ...container, bundle: dir }, ids: [container.id], human: () => `${container.id}\n` });
}

async function writeSpec(directory: string, spec: object): Promise<void> {
  const file = join(directory, 'config.json');
  await writingTo(file, () => writeFile(file, `${JSON.stringify(spec, null, 2)}\n`));
}
