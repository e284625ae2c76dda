/** pull push tags copy */
import { Option, type Command } from 'commander';
import type { PullOptions, PushOptions, RemoteOptions } from '../core/api.js';
import { LayerdError } from '../core/errors.js';
import { parseReference } from '../core/reference.js';
import type { CopyResult, Credentials, PushCompression, PushResult } from '../core/words.js';
import { platformOption, type Cli } from './cli.js';
import { UsageError } from './exit-codes.js';
import { bytes, counted } from './format.js';
import { unpackArchive, writeArchive } from './sink.js';
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

interface TagFlags extends LoginFlags {
  digest?: string;
}
interface CopyFlags {
  platform?: string;
  referrers?: boolean;
  srcCreds?: string;
  destCreds?: string;
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
    .description(
      'send an image (one platform; `copy` takes all) to a registry, as far as its blobs are not there; prints where it lies',
    )
    .addOption(
      new Option('--compression <how>', 'compress layers so (default: as they came, else gzip)').choices([
        'gzip',
        'zstd',
      ]),
    )
    .action((image: string, target: string | undefined, flags: PushFlags) => push(cli, image, target, flags));
  withLogin(program.command('tags <repository>'))
    .description('list the tags of a repository at a registry')
    .option('--digest <digest>', 'only those that lead to it: to a manifest, a platform, a config or a layer')
    .action((name: string, flags: TagFlags) => tags(cli, name, flags));
  program
    .command('copy <source> <target>')
    .description(
      'copy an image byte for byte between registries, or a registry and an archive: REF, oci-archive:FILE, oci:DIRECTORY, docker-archive:FILE',
    )
    .option('--platform <os/arch[/variant]>', 'one platform of an index (default: all of it)')
    .option('--referrers', 'what refers to it, too: signatures, attestations')
    .option('--src-creds <name:password>', 'for the registry that is copied from')
    .option('--dest-creds <name:password>', 'for the registry that is copied to')
    .action((source: string, target: string, flags: CopyFlags) => copy(cli, source, target, flags));
}

/** What SRC and DST of a copy are when they are no references. */
const ARCHIVE = /^(oci|oci-archive|docker-archive):(.+)$/;

async function tags(cli: Cli, name: string, { digest, ...flags }: TagFlags): Promise<void> {
  const asking = { ...(digest === undefined ? {} : { digest }), ...(await login(flags)) };
  const found = await cli.client.tags(name, { ...asking, signal: cli.signal });
  const human = (): string =>
    digest === undefined
      ? found.tags.map((tag) => `${tag}\n`).join('')
      : found.matches.map((match) => `${match.tag}\t${match.as}\t${match.digest}\n`).join('');
  cli.print({ data: found, ids: found.tags, human });
}

async function copy(cli: Cli, source: string, target: string, flags: CopyFlags): Promise<void> {
  const { platform, referrers, srcCreds, destCreds } = flags;
  const [, , from] = ARCHIVE.exec(source) ?? [];
  const [, kind, to] = ARCHIVE.exec(target) ?? [];
  const chosen = platformOption(platform);
  const ours = srcCreds === undefined ? {} : { credentials: parseCreds(srcCreds) };
  const options = { ...chosen, ...ours, ...(referrers === undefined ? {} : { referrers }) };
  if (from !== undefined && to !== undefined) {
    throw new UsageError(
      'both are archives',
      'Copy goes between registries and archives: `layerctl load` and then `layerctl save` make one archive of another.',
    );
  }
  if (from !== undefined) {
    const theirs = destCreds === undefined ? {} : { credentials: parseCreds(destCreds) };
    const importing = { target: registryRef(target), ...chosen, ...theirs };
    const result = await cli.watched((watch) => cli.client.importArchive(from, { ...importing, ...watch }));
    cli.print({ data: result, ids: [result.digest], human: () => `${result.ref}\n` });
    cli.note(pushSummary(result));
  } else if (to !== undefined) {
    const ref = registryRef(source);
    await fromRegistry(cli, ref, copyToArchive(cli, ref, { kind, to }, options));
  } else {
    const theirs = destCreds === undefined ? {} : { targetCredentials: parseCreds(destCreds) };
    const ref = registryRef(source);
    const copying = cli.watched((watch) =>
      cli.client.copy(ref, registryRef(target), { ...options, ...theirs, ...watch }),
    );
    const result = await fromRegistry(cli, ref, copying);
    cli.print({ data: result, ids: [result.digest], human: () => `${result.target}\n` });
    cli.note(copySummary(result));
  }
}

/** Where a registry fails to have what is here, somebody may have thought that copy looks here, too. */
async function fromRegistry<T>(cli: Cli, ref: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof LayerdError) || !error.code.startsWith('REGISTRY_') || !(await isHere(cli, ref)))
      throw error;
    throw error.withHint(
      `${error.hint} Copy reads from registries and archives, not what is loaded here: \`layerctl save\` and \`layerctl push\` do.`,
    );
  }
}

/** `localhost` without a port is no registry but what tools name images by that they built. */
async function isHere(cli: Cli, ref: string): Promise<boolean> {
  if (parseReference(ref).domain === 'localhost') return true;
  return cli.client.image(ref).then(
    () => true,
    () => false,
  );
}

async function copyToArchive(
  cli: Cli,
  ref: string,
  { kind, to }: { kind: string | undefined; to: string },
  options: RemoteOptions,
): Promise<void> {
  if (kind === 'docker-archive') {
    throw new UsageError('what a registry has is no docker-archive', 'Copy to oci-archive:FILE or oci:DIRECTORY.');
  }
  const written = await cli.watched(async ({ onProgress, signal }) => {
    const stream = await cli.client.remoteArchive(ref, { ...options, signal });
    const onBytes = (done: number): void => onProgress({ phase: 'copy', subject: '', done, total: null });
    return kind === 'oci' ? unpackArchive(stream, to, onBytes) : writeArchive(stream, to, onBytes);
  });
  cli.print({ data: { output: to, bytes: written, ref }, ids: [], human: () => '' });
  cli.note(`wrote ${bytes(written)} to ${to}`);
}

/** References may be written as skopeo has them. */
function registryRef(text: string): string {
  return text.replace(/^docker:\/\//, '');
}

function copySummary({ copied, mounted, present, bytesCopied, digest }: CopyResult): string {
  return `${counted(copied, 'blob')} sent, ${mounted} taken over, ${present} already there (${bytes(bytesCopied)} sent); ${digest}`;
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
    ...platformOption(platform),
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
