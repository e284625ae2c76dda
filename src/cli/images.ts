/** load save images inspect history tag rmi */
import { isatty } from 'node:tty';
import type { Command } from 'commander';
import type { LoadOptions } from '../core/api.js';
import { LayerdError } from '../core/errors.js';
import type { HistoryRow, ImageSummary, LoadResult } from '../core/words.js';
import { platformOption, type Cli } from './cli.js';
import { UsageError } from './exit-codes.js';
import { age, bytes, shortId, table } from './format.js';
import { refuseTerminal, unpackArchive, writeArchive } from './sink.js';

interface LoadFlags {
  platform?: string;
  allPlatforms?: boolean;
  ref?: string;
}
interface SaveFlags {
  output?: string;
  format: string;
}

export function imageCommands(program: Command, cli: Cli): void {
  program
    .command('load [file]')
    .description('load images from a docker-archive, an OCI archive or an OCI layout directory; prints their refs')
    .option('--platform <os/arch[/variant]>', 'which of several platforms (default: this machine)')
    .option('--all-platforms', 'every platform of the archive')
    .option('--ref <ref>', 'name the image, where the archive holds exactly one')
    .action((file: string | undefined, flags: LoadFlags) => load(cli, file, flags));
  program
    .command('save <ref...>')
    .description('write images as an archive')
    .option('-o, --output <file>', 'the file, or for oci-dir the directory (default: standard output)')
    .option('--format <docker|oci|oci-dir>', 'form of the archive', 'docker')
    .action((refs: string[], flags: SaveFlags) => save(cli, refs, flags));
  program
    .command('images')
    .description('list images')
    .action(async () => {
      const images = await cli.client.images();
      cli.print({ data: images, ids: images.map(({ id }) => id), human: () => imageTable(images) });
    });
  program
    .command('history <image>')
    .description('how an image came to be, newest instruction first')
    .option('--no-trunc', 'whole commands')
    .action(async (image: string, { trunc }: { trunc: boolean }) => {
      const rows = await cli.client.history(image);
      const ids = rows.map(({ diffId }) => diffId).filter((id) => id !== null);
      cli.print({ data: rows, ids, human: () => historyTable(rows, trunc) });
    });
  program
    .command('tag <image> <ref>')
    .description('give an image one more ref')
    .action(async (image: string, ref: string) => {
      const tagged = await cli.client.tag(image, ref);
      cli.print({ data: tagged, ids: [tagged.id], human: () => '' });
    });
  program
    .command('rmi <image...>')
    .description('remove refs, and images with their last one')
    .option('-f, --force', 'remove an image by id with all its refs')
    .action((images: string[], flags: { force?: boolean }) => removeImages(cli, images, flags));
  program
    .command('inspect <name...>')
    .description('everything about containers, images or layers, as JSON')
    .option('--type <container|image|layer>', 'what the names are')
    .action((names: string[], flags: { type?: string }) => inspect(cli, names, flags.type));
}

async function load(cli: Cli, file: string | undefined, flags: LoadFlags): Promise<void> {
  if (file === undefined && isatty(0)) {
    throw new UsageError('there is no archive on standard input', 'Name a file: layerctl load FILE.');
  }
  const { platform, ...rest } = flags;
  const options: LoadOptions = { ...rest, ...platformOption(platform) };
  const source = file === undefined || file === '-' ? process.stdin : file;
  const result = await cli.watched((watch) => cli.client.load(source, { ...options, ...watch }));
  cli.print({ data: result, ids: result.images.map(({ imageId }) => imageId), human: () => loadedNames(result) });
  cli.note(loadSummary(result));
}

export function loadedNames({ images }: LoadResult): string {
  return images
    .flatMap(({ refs, imageId }) => (refs.length > 0 ? refs : [imageId]))
    .map((name) => `${name}\n`)
    .join('');
}

export function loadSummary({ layersLoaded, layersPresent, bytesLoaded }: LoadResult): string {
  const present = layersPresent === 0 ? '' : `, ${layersPresent} already there`;
  return `${layersLoaded} ${layersLoaded === 1 ? 'layer' : 'layers'} loaded (${bytes(bytesLoaded)})${present}`;
}

async function save(cli: Cli, refs: string[], { output, format }: SaveFlags): Promise<void> {
  if (format !== 'docker' && format !== 'oci' && format !== 'oci-dir') {
    throw new UsageError(`there is no format ${format}`, 'Formats are docker, oci and oci-dir.');
  }
  if (format === 'oci-dir' && (output === undefined || output === '-')) {
    throw new UsageError('a directory is needed for oci-dir', 'Name it with -o DIR.');
  }
  if (cli.options.json === true && (output === undefined || output === '-')) {
    throw new UsageError('--json needs -o FILE', 'The archive itself takes standard output.');
  }
  refuseTerminal(output);
  const archive = format === 'docker' ? 'docker' : 'oci';
  const { written, notice } = await cli.watched(async ({ onProgress, signal }) => {
    const { stream, notice: said } = await cli.client.save({ refs, format: archive, signal });
    const onBytes = (done: number): void => onProgress({ phase: 'save', subject: '', done, total: null });
    const toDirectory = format === 'oci-dir' && output !== undefined;
    const size = toDirectory ? unpackArchive(stream, output, onBytes) : writeArchive(stream, output, onBytes);
    return { written: await size, notice: said };
  });
  if (notice !== '') cli.note(notice);
  if (output !== undefined && output !== '-') {
    cli.print({ data: { output, bytes: written, refs, notice }, ids: refs, human: () => '' });
    cli.note(`wrote ${bytes(written)} to ${output}`);
  }
}

async function removeImages(cli: Cli, images: string[], flags: { force?: boolean }): Promise<void> {
  const removed = await cli.each(images, (image) => cli.client.removeImage(image, flags));
  cli.print({
    data: removed,
    ids: removed.flatMap(({ deleted }) => deleted),
    human: () =>
      removed
        .flatMap(({ untagged, deleted }) =>
          untagged.map((ref) => `Untagged: ${ref}\n`).concat(deleted.map(deletedLine)),
        )
        .join(''),
  });
}

function deletedLine(id: string): string {
  return `Deleted: ${id}\n`;
}

async function inspect(cli: Cli, names: string[], type: string | undefined): Promise<void> {
  const kinds = type === undefined ? INSPECTED : INSPECTED.filter((kind) => kind === type);
  if (kinds.length === 0) throw new UsageError(`there is no type ${type}`, `Types are ${INSPECTED.join(', ')}.`);
  const found = await cli.each(names, async (name) => {
    for (const kind of kinds) {
      const one = await lookUp(cli, kind, name);
      if (one !== null) return one;
    }
    throw new LayerdError('IMAGE_NOT_FOUND', `there is no ${kinds.join(', ')} named ${name}`, {
      details: { name },
      hint: 'See layerctl ps, layerctl images and layerctl layers.',
    });
  });
  const ids = found.map((one) => ('diffId' in one ? one.diffId : one.id));
  cli.print({ data: found, ids, human: () => `${JSON.stringify(found, null, 2)}\n` });
}

const INSPECTED = ['container', 'image', 'layer'] as const;

/** Null where nothing of this kind has the name. */
async function lookUp(
  cli: Cli,
  kind: (typeof INSPECTED)[number],
  name: string,
): Promise<{ id: string } | { diffId: string } | null> {
  const { client } = cli;
  try {
    if (kind === 'container') return await client.container(name);
    return kind === 'image' ? await client.image(name) : await client.layer(name);
  } catch (error) {
    if (error instanceof LayerdError && (error.kind === 'not_found' || NOT_SUCH_A_NAME.has(error.code))) return null;
    throw error;
  }
}

/** What a kind says to names that only another kind has. */
const NOT_SUCH_A_NAME = new Set(['INVALID_REFERENCE', 'INVALID_DIGEST', 'INVALID_ARGUMENT']);

function imageTable(images: readonly ImageSummary[]): string {
  const rows = images.flatMap((image) =>
    (image.refs.length > 0 ? image.refs : ['<none>']).map((ref) => ({ ref, image })),
  );
  return table(rows, [
    { title: 'REF', value: ({ ref }) => ref },
    { title: 'IMAGE ID', value: ({ image }) => shortId(image.id) },
    { title: 'PLATFORM', value: ({ image }) => image.platform },
    { title: 'CREATED', value: ({ image }) => age(image.created) },
    { title: 'SIZE', value: ({ image }) => bytes(image.size), right: true },
    { title: 'UNIQUE', value: ({ image }) => bytes(image.unique), right: true },
    { title: 'SHARED', value: ({ image }) => bytes(image.shared), right: true },
  ]);
}

function historyTable(rows: readonly HistoryRow[], truncate: boolean): string {
  const command = (text: string): string => {
    const line = text.replaceAll(/\s+/g, ' ').trim();
    return truncate && line.length > 60 ? `${line.slice(0, 59)}…` : line;
  };
  return table(rows, [
    { title: 'LAYER', value: ({ diffId }) => (diffId === null ? '<none>' : shortId(diffId)) },
    { title: 'CREATED', value: ({ created }) => (created === null ? '' : age(created)) },
    { title: 'CREATED BY', value: ({ createdBy }) => command(createdBy) },
    { title: 'SIZE', value: ({ size }) => bytes(size), right: true },
    { title: 'COMMENT', value: ({ comment }) => comment },
  ]);
}
