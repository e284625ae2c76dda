/** pull push */
import { Option, type Command } from 'commander';
import type { PullOptions, PushOptions } from '../core/api.js';
import { parsePlatform } from '../core/platform.js';
import type { Credentials, PushCompression, PushResult } from '../core/words.js';
import type { Cli } from './cli.js';
import { UsageError } from './exit-codes.js';
import { bytes } from './format.js';
import { loadedNames, loadSummary } from './images.js';

interface LoginFlags {
  creds?: string;
  username?: string;
  passwordStdin?: boolean;
}
interface PullFlags extends LoginFlags {
  platform?: string;
  allPlatforms?: boolean;
}

interface PushFlags extends LoginFlags {
  compression?: PushCompression;
}

export function registryCommands(program: Command, cli: Cli): void {
  withLogin(program.command('pull <ref>'))
    .description('bring an image from a registry, as far as its layers are not here; prints its refs')
    .option('--platform <os/arch[/variant]>', 'which of several platforms (default: this machine)')
    .option('--all-platforms', 'every platform')
    .action((ref: string, flags: PullFlags) => pull(cli, ref, flags));
  withLogin(program.command('push <image> [target]'))
    .description('send an image to a registry, as far as its blobs are not there; prints where it lies')
    .addOption(
      new Option('--compression <how>', 'compress layers so (default: as they came, else gzip)').choices([
        'gzip',
        'zstd',
      ]),
    )
    .action((image: string, target: string | undefined, flags: PushFlags) => push(cli, image, target, flags));
}

/** The ways to say who one is; without them the daemon looks into its Docker configuration file. */
function withLogin(command: Command): Command {
  return command
    .option('--creds <name:password>', 'name and password for the registry; others on this machine can see them')
    .option('--username <name>', 'name for the registry')
    .addOption(
      new Option('--password-stdin', 'read the password (or, without a name, an identity token) from standard input'),
    );
}

async function pull(cli: Cli, ref: string, flags: PullFlags): Promise<void> {
  const { platform, allPlatforms } = flags;
  const options: PullOptions = {
    ...(platform === undefined ? {} : { platform: parsePlatform(platform) }),
    ...(allPlatforms === undefined ? {} : { allPlatforms }),
    ...(await login(flags)),
  };
  const result = await cli.watched((watch) => cli.client.pull(ref, { ...options, ...watch }));
  cli.print({ data: result, ids: result.images.map(({ imageId }) => imageId), human: () => loadedNames(result) });
  cli.note(`${loadSummary(result)}, ${result.digest} from ${result.from}`);
}

async function push(cli: Cli, image: string, target: string | undefined, flags: PushFlags): Promise<void> {
  const options: PushOptions = {
    ...(target === undefined ? {} : { target }),
    ...(flags.compression === undefined ? {} : { compression: flags.compression }),
    ...(await login(flags)),
  };
  const result = await cli.watched((watch) => cli.client.push(image, { ...options, ...watch }));
  cli.print({ data: result, ids: [result.digest], human: () => `${result.ref}\n` });
  cli.note(pushSummary(result));
}

function pushSummary({ layers, bytesSent, digest, original }: PushResult): string {
  const count = (how: PushResult['layers'][number]['how']): number =>
    layers.filter((layer) => layer.how === how).length;
  const parts = [
    `${count('uploaded')} layers sent`,
    `${count('mounted')} taken over`,
    `${count('present')} already there`,
  ];
  return `${parts.join(', ')} (${bytes(bytesSent)} sent); ${digest}${original ? ', as the image came' : ''}`;
}

async function login({ creds, username, passwordStdin }: LoginFlags): Promise<{ credentials?: Credentials }> {
  if (passwordStdin === true) {
    const secret = await readSecret();
    return { credentials: username === undefined ? { identityToken: secret } : { username, password: secret } };
  }
  if (username !== undefined) {
    throw new UsageError(
      'a name needs its password',
      'Give it with --password-stdin, or both as --creds NAME:PASSWORD.',
    );
  }
  return creds === undefined ? {} : { credentials: parseCreds(creds) };
}

function parseCreds(creds: string): Credentials {
  const colon = creds.indexOf(':');
  if (colon > 0) return { username: creds.slice(0, colon), password: creds.slice(colon + 1) };
  throw new UsageError('these are no credentials', 'Write them as NAME:PASSWORD.');
}

/** All of standard input, without the line feed that shells put behind it. */
async function readSecret(): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  const secret = Buffer.concat(chunks)
    .toString('utf8')
    .replace(/\r?\n$/, '');
  if (secret === '') throw new UsageError('there is no password on standard input');
  return secret;
}
