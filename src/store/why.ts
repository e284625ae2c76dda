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

  /** Which row a path below the root belongs to. */
  private path(subject: string): WhyReport {
    const { places, reader } = this.context;
    const [room = '', name = ''] = relative(places.root, subject).split(sep);
    if (room === '..' || room === '') {
      throw new LayerdError('INVALID_ARGUMENT', `${subject} is not below the root ${places.root}`, {
        details: { path: subject, root: places.root },
      });
    }
    if (room === 'l') {
      const row = reader.storedLayerByDir(name);
      if (row !== undefined) {
        const paths = this.layerReasons(row.layer_id).map((path) => [`it is layer ${row.diff_id}`].concat(path));
        return report(subject, 'file', paths, `it is layer ${row.diff_id}, which nothing needs`);
      }
    }
    if (room === 's') {
      const container = reader.containers().find((row) => row.dir === name);
      if (container !== undefined) {
        return report(
          subject,
          'file',
          [[`it is what container ${container.name} (${container.id.slice(0, 12)}) wrote`]],
          '',
        );
      }
    }
    if (room === 's') {
      const paths = this.snapshotReasons(name);
      if (paths.length > 0) return report(subject, 'snapshot', paths, '');
    }
    const plain: Record<string, string> = {
      db: 'it is the database',
      lock: 'it is the lock of the daemon',
      trash: 'it is in the trash and will be unlinked',
      t: 'it is a tree of a chain, a cache that is made again when it is needed',
      e: 'it is the empty directory that overlay mounts need',
    };
    if (room === 'b') {
      const blob = reader.keptBlobs().find((row) => row.file === name);
      if (blob !== undefined) return report(subject, 'file', this.layerReasons(blob.layer_id), '');
    }
    const reason = plain[room];
    return report(
      subject,
      'file',
      reason === undefined ? [] : [[reason]],
      'no row accounts for it: `layerctl check` names it',
    );
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
