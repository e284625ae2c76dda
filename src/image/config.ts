/** Configs of images that layerd makes itself (commit), and the history that a config tells. */
import { type Digest, sha256 } from '../core/digest.js';
import type { HistoryRow, Platform } from '../core/words.js';
import { applyChanges } from './dockerfile.js';
import { parseConfig } from './documents.js';
import type { ParsedImage } from './host.js';
import type { JsonObject } from './json.js';
import type { HistoryEntry, ImageConfig } from './types.js';

export interface Commit {
  /** The new layer; null where nothing had changed and the image only gets another config. */
  diffId: Digest | null;
  /** Milliseconds since the epoch. */
  created: number;
  /** What made the layer, for the history. */
  createdBy: string;
  author?: string;
  message?: string;
  /** Dockerfile instructions (dockerfile.ts). */
  changes?: readonly string[];
  /** Of an image without a parent. */
  platform: Platform;
}

/** Fields of a config that speak of the container that the parent was made in. */
const OF_THE_PARENT = new Set(['container', 'container_config', 'docker_version', 'id', 'parent', 'author']);

/**
 * The config of the image that a commit makes: the parent's with the changes applied, one layer and one row of history
 * more. Fields that layerd does not know are kept. Throws INVALID_ARGUMENT if a change is wrong.
 */
export function commitConfig(parent: ImageConfig | null, commit: Commit): ParsedImage['config'] {
  const { os, architecture, variant } = parent?.platform ?? commit.platform;
  const inherited = Object.entries(parent?.document ?? {}).filter(([name]) => !OF_THE_PARENT.has(name));
  const document = {
    ...Object.fromEntries(inherited),
    created: new Date(commit.created).toISOString(),
    ...(commit.author === undefined ? {} : { author: commit.author }),
    architecture,
    os,
    ...(variant === undefined ? {} : { variant }),
    config: runConfig(parent, commit.changes ?? []),
    rootfs: {
      type: 'layers',
      diff_ids: [...(parent?.diffIds ?? []), ...(commit.diffId === null ? [] : [commit.diffId])],
    },
    history: [...historyOf(parent), historyEntry(commit)],
  };
  const bytes = Buffer.from(JSON.stringify(document));
  return { bytes, digest: sha256(bytes), parsed: parseConfig('the config of the new image', bytes) };
}

/** The changed config, over what the parent's document has beside the fields that layerd knows (a health check, …). */
function runConfig(parent: ImageConfig | null, changes: readonly string[]): JsonObject {
  const before = parent?.config ?? {};
  const unknown = Object.entries((parent?.document['config'] ?? {}) as JsonObject).filter(
    ([name]) => !(name in before),
  );
  return { ...Object.fromEntries(unknown), ...applyChanges(before, changes) };
}

/** The parent's history, made to tell as many layers as the parent has: readers match the two by counting. */
function historyOf(parent: ImageConfig | null): HistoryEntry[] {
  if (parent === null) return [];
  const told = parent.history.filter((entry) => entry.empty_layer !== true).length;
  const untold = Array.from({ length: Math.max(0, parent.diffIds.length - told) }, () => ({}));
  return [...parent.history, ...untold];
}

function historyEntry(commit: Commit): HistoryEntry {
  return {
    created: new Date(commit.created).toISOString(),
    created_by: commit.createdBy,
    ...(commit.author === undefined ? {} : { author: commit.author }),
    ...(commit.message === undefined ? {} : { comment: commit.message }),
    ...(commit.diffId === null ? { empty_layer: true } : {}),
  };
}

/**
 * One row per instruction, newest first, as `docker history` shows them. `sizes` are the bytes of the image's layers,
 * bottom first. Layers that the history does not tell of get a row of their own, above those that it does.
 */
export function historyRows(config: ImageConfig, sizes: readonly number[]): HistoryRow[] {
  const untold = config.diffIds.map((diffId, i) => ({ diffId, size: sizes[i] ?? 0 })).values();
  const rows = config.history.map((entry) =>
    rowOf(entry, entry.empty_layer === true ? undefined : untold.next().value),
  );
  for (const layer of untold) rows.push(rowOf({}, layer));
  return rows.toReversed();
}

function rowOf(entry: HistoryEntry, layer: { diffId: Digest; size: number } | undefined): HistoryRow {
  const created = Date.parse(entry.created ?? '');
  return {
    created: Number.isNaN(created) ? null : created,
    createdBy: entry.created_by ?? '',
    comment: entry.comment ?? '',
    size: layer?.size ?? 0,
    diffId: layer?.diffId ?? null,
  };
}
