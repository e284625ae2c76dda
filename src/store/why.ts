/** why: what keeps something on disk, as chains of reasons that each end at a root. */
import { relative, sep } from 'node:path';
import { isDigest } from '../core/digest.js';
import { LayerdError } from '../core/errors.js';
import { normalizeReference } from '../core/reference.js';
import type { WhyReport } from '../core/words.js';
import type { ImageRow, LayerRow } from '../metadata/rows.js';
import type { StoreContext } from './context.js';

export class Explainer {
  private readonly context: StoreContext;

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** `subject`: an image, layer or chain digest, a container, or a path below the root. */
  explain(subject: string): WhyReport {
    const { reader } = this.context;
    if (subject.startsWith('/')) return this.path(subject);
    if (isDigest(subject)) {
      const layer = reader.layer(subject);
      if (layer !== undefined) return this.layer(subject, layer);
      const image = reader.imageById(subject) ?? reader.imageByManifest(subject);
      if (image !== undefined) return this.image(subject, image);
      const chain = reader.chainById(subject);
      if (chain !== undefined) {
        const own = this.layerReasons(chain.layer_id);
        return report(subject, 'chain', own.length > 0 ? own : [], 'no image or container uses the chain');
      }
      const blob = reader.blob(subject);
      if (blob !== undefined) return this.layer(subject, reader.layer(blob.diff_id));
    }
    const container = reader.containerById(subject) ?? reader.containerByName(subject);
    if (container !== undefined) return this.container(subject, container.id);
    const hex = subject.replace(/^sha256:/, '');
    const layers = /^[0-9a-f]{4,64}$/.test(hex) ? reader.layersByPrefix(hex) : [];
    const images = /^[0-9a-f]{4,64}$/.test(hex) ? reader.imagesByPrefix(hex) : [];
    if (images.length + layers.length === 1) {
      const [image] = images;
      return image === undefined ? this.layer(subject, layers[0]) : this.image(subject, image);
    }
    const named = reader.imageByRef(wholeRef(subject));
    if (named !== undefined) return this.image(subject, named);
    throw new LayerdError('LAYER_NOT_FOUND', `nothing here is called ${subject}`, {
      details: { subject },
      hint: 'Give a digest (or a unique part of one), a ref, a container or a path below the root.',
    });
  }

  private image(subject: string, image: ImageRow): WhyReport {
    return report(subject, 'image', this.imageReasons(image.id), 'nothing keeps it: the next collection takes it');
  }

  private layer(subject: string, layer: LayerRow | undefined): WhyReport {
    const paths = layer === undefined ? [] : this.layerReasons(layer.id);
    return report(subject, 'layer', paths, 'nothing keeps it: the next collection takes it');
  }

  private container(subject: string, id: string): WhyReport {
    const mounts = this.context.reader.containerById(id)?.mounts ?? 0;
    const root = `container ${id.slice(0, 12)} exists until it is removed${mounts > 0 ? `, and is mounted` : ''}`;
    return report(subject, 'container', [[root]], '');
  }

  /** Which row a path below the root belongs to, or below the run directory, where what is in the root is mounted. */
  private path(subject: string): WhyReport {
    const { places, staging, stock } = this.context;
    const [mounts = '', mounted = ''] = relative(places.run, subject).split(sep);
    const [room = '', name = ''] =
      mounts in MOUNTED ? [MOUNTED[mounts], mounted] : relative(places.root, subject).split(sep);
    if (room === '..') {
      throw new LayerdError('INVALID_ARGUMENT', `${subject} is not below the root ${places.root}`, {
        details: { path: subject, root: places.root },
        hint: 'Give a path below the root, or below RUN/l, RUN/m or RUN/t, where it is mounted.',
      });
    }
    const known = name === '' ? null : this.inRoom(subject, room, name);
    if (known !== null) return known;
    let reason = (name === '' ? ROOMS : CONTENTS)[room];
    if (staging.has(name)) reason = 'it is being made, or on its way into the trash';
    if (stock.has(name)) reason = 'it was made ahead, for the next container';
    const otherwise = 'no row accounts for it: `layerctl check` names it';
    return report(subject, 'file', reason === undefined ? [] : [[reason]], otherwise);
  }

  private inRoom(subject: string, room: string, name: string): WhyReport | null {
    const { reader } = this.context;
    if (room === 'l') {
      const row = reader.storedLayerByDir(name);
      if (row === undefined) return null;
      const paths = this.layerReasons(row.layer_id).map((path) => [`it is layer ${row.diff_id}`].concat(path));
      return report(subject, 'file', paths, `it is layer ${row.diff_id}, which nothing needs`);
    }
    if (room === 's') {
      const container = reader.containerByDir(name);
      if (container === undefined) {
        const paths = this.snapshotReasons(name);
        return paths.length > 0 ? report(subject, 'snapshot', paths, '') : null;
      }
      const what = `it is what container ${container.name} (${container.id.slice(0, 12)}) wrote`;
      return report(subject, 'file', [[what]], '');
    }
    const blob = room === 'b' ? reader.keptBlobs().find((row) => row.file === name) : undefined;
    return blob === undefined ? null : report(subject, 'file', this.layerReasons(blob.layer_id), '');
  }

  /** Whose directory below s/ it is, and for what. */
  private snapshotReasons(dir: string): string[][] {
    const { snapshots } = this.context.reader;
    const live = snapshots.byDir(dir);
    if (live !== undefined) return [[`it is what the snapshot ${live.key} of ${live.space} holds`]];
    return snapshots.ofUpper(dir).map(({ space, key }) => [`the snapshot ${key} of ${space} lies on this upper`]);
  }

  private layerReasons(layerId: number): string[][] {
    const { reader } = this.context;
    const paths: string[][] = [];
    for (const image of reader.imagesOfLayer(layerId)) {
      for (const path of this.imageReasons(image.id)) {
        paths.push([`image ${image.image_id.slice(7, 19)} has it as a layer`, ...path]);
      }
    }
    for (const { space, key } of reader.snapshots.ofLayer(layerId)) {
      paths.push([`the snapshot ${key} of ${space} lies on it`]);
    }
    for (const lease of reader.leasesOfLayer(layerId)) paths.push([`lease ${lease} holds it`]);
    for (const { id, instruction } of reader.buildCacheOfLayer(layerId)) {
      paths.push([`build cache entry ${id} has it as the outcome of ${shortened(instruction)}`]);
    }
    return paths;
  }

  private imageReasons(imageRow: number): string[][] {
    const { reader } = this.context;
    return [
      ...reader.refs(imageRow).map((ref) => [`the ref ${ref} names it`]),
      ...reader
        .containersOfImage(imageRow)
        .map((container) => [`container ${container.name} (${container.id.slice(0, 12)}) was made from it`]),
      ...reader.leasesOfImage(imageRow).map((lease) => [`lease ${lease} holds it`]),
    ];
  }
}

/** Where below the root lies what is mounted in these directories below the run directory. */
const MOUNTED: Record<string, string> = { l: 'l', m: 's', t: 't' };

/** What the root and the directories below it are for. */
const ROOMS: Record<string, string> = {
  '': 'it is the root of the store',
  db: 'it is the database',
  lock: 'it is the lock of the daemon',
  l: 'layers are kept in it',
  s: 'what containers and snapshots write is kept in it',
  t: 'trees of chains are kept in it',
  b: 'compressed blobs are kept in it',
  e: 'it is the empty directory that overlay mounts need',
  trash: 'what is to be unlinked is kept in it',
  lost: 'what a rebuild or a restore set aside is kept in it, until you remove it',
};

/** What lies in those that no row tells of. */
const CONTENTS: Record<string, string> = {
  db: 'it is the database',
  trash: 'it is in the trash and will be unlinked',
  lost: 'a rebuild or a restore set it aside; it stays until you remove it',
  t: 'it is a tree of a chain, a cache that is made again when it is needed',
};

function report(subject: string, kind: WhyReport['kind'], paths: string[][], otherwise: string): WhyReport {
  const conclusion =
    paths.length === 0 ? otherwise : `kept by ${paths.length} ${paths.length === 1 ? 'root' : 'roots'}`;
  return { subject, kind, paths, conclusion };
}

function shortened(instruction: string): string {
  const [line = ''] = instruction.split('\n');
  return line.length > 60 || line !== instruction ? `${line.slice(0, 60)}…` : line;
}

/** A ref as it is stored; what cannot be one stays as it is, and is found by no image. */
function wholeRef(subject: string): string {
  try {
    return normalizeReference(subject);
  } catch (error) {
    if (error instanceof LayerdError && error.code === 'INVALID_REFERENCE') return subject;
    throw error;
  }
}
