/** events info version completion */
import type { Command } from 'commander';
import { LayerdError } from '../core/errors.js';
import { VERSION } from '../core/version.js';
import type { EngineEvent, Info } from '../core/words.js';
import type { Cli } from './cli.js';
import { completionScript, namesOf } from './completion.js';
import { EXIT, UsageError } from './exit-codes.js';
import { age, counted, facts } from './format.js';

interface EventFlags {
  since?: string;
  follow?: boolean;
}

export function systemCommands(program: Command, cli: Cli): void {
  program
    .command('events')
    .description('what happened to images, layers and containers; --json prints one document per line')
    .option('--since <number>', 'only events with a higher sequence number', '0')
    .option('-f, --follow', 'go on with what happens from now')
    .action((flags: EventFlags) => events(cli, flags));
  program
    .command('info')
    .description('what daemon runs here, and how')
    .action(async () => {
      const info = await cli.client.info();
      cli.print({ data: info, ids: [info.root], human: () => infoText(info) });
    });
  program
    .command('version')
    .description('versions of layerctl and of the daemon')
    .action(async () => {
      const server = await daemonVersion(cli);
      cli.print({
        data: { client: VERSION, server },
        ids: [VERSION],
        human: () =>
          facts([
            ['layerctl', VERSION],
            ['layerd', server ?? 'does not answer'],
          ]),
      });
    });
  program
    .command('completion <bash|zsh|fish>')
    .description('print a completion script for a shell')
    .addHelpText('after', '\nFor bash: source <(layerctl completion bash)')
    .action((shell: string) => cli.write(completionScript(program, shell)));
  // what completion scripts ask while somebody types
  program.command('__names <kind>', { hidden: true }).action(async (kind: string) => {
    cli.write((await namesOf(cli.client, kind)).map((name) => `${name}\n`).join(''));
  });
}

async function events(cli: Cli, { since = '0', follow = false }: EventFlags): Promise<void> {
  if (!/^\d+$/.test(since)) throw new UsageError(`${since} is not a sequence number`, 'layerctl events prints them.');
  try {
    for await (const event of cli.client.events({ since: Number(since), follow, signal: cli.signal })) {
      cli.write(eventLine(cli, event));
    }
  } catch (error) {
    // a follower has no other end than to be stopped
    if (!follow || !(error instanceof LayerdError) || error.code !== 'CANCELLED') throw error;
    process.exitCode = EXIT.interrupted;
  }
}

function eventLine(cli: Cli, event: EngineEvent): string {
  if (cli.options.json === true) return `${JSON.stringify(event)}\n`;
  if (cli.options.quiet === true) return `${event.seq}\n`;
  const data = Object.entries(event.data).map(([key, value]) => `${key}=${value}`);
  return [event.seq, new Date(event.time).toISOString(), event.type, event.subject, ...data].join(' ').concat('\n');
}

function infoText(info: Info): string {
  const features = Object.entries(info.kernel.features).map(([name, found]) => `${found ? '+' : '-'}${name}`);
  const { images, layers, containers, leases } = info.counts;
  return facts([
    ['version', `${info.version} (Node.js ${info.node}, pid ${info.pid})`],
    ['started', age(info.started)],
    ['root', `${info.root} (${info.fileSystem})`],
    ['run', info.run],
    ['driver', `${info.driver}: ${info.driverReason}`],
    ...info.drivers.map(
      ({ name, available, reason }) => [`  ${name}`, `${available ? '' : 'not available: '}${reason}`] as const,
    ),
    ['kernel', `${info.kernel.release} ${features.join(' ')}`],
    ['inflater', info.inflater],
    [
      'holds',
      [
        counted(images, 'image'),
        counted(layers, 'layer'),
        counted(containers, 'container'),
        counted(leases, 'lease'),
      ].join(', '),
    ],
    ['event loop', `99 % of delays below ${info.eventLoopDelayP99Ms.toFixed(1)} ms`],
  ]);
}

/** Null where no daemon answers. */
async function daemonVersion(cli: Cli): Promise<string | null> {
  try {
    return (await cli.client.info()).version;
  } catch (error) {
    if (error instanceof LayerdError && error.code === 'DAEMON_UNREACHABLE') return null;
    throw error;
  }
}
