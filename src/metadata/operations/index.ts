/** Every operation of the writer, by name. */
import { bindBuildCache, removeBuildCache, useBuildCache } from './build-cache.js';
import { extendChain } from './chains.js';
import { collect } from './collect.js';
import { addContainer, countMount, countUnmount, removeContainer } from './containers.js';
import { ping, recordEvent, trimEvents } from './events.js';
import { addImage, removeImage, tagImage } from './images.js';
import {
  addStoredLayer,
  addVariant,
  dropBlob,
  fixInherited,
  healStoredLayer,
  holdPresentLayer,
  markDamaged,
} from './layers.js';
import { moveChain, noteDriver } from './migrate.js';
import {
  addLease,
  beginOperation,
  dropLease,
  endOperation,
  removeInternalLeases,
  removeLease,
  renewLease,
  updateLease,
} from './leases.js';
import { holdPartial, noteRemoteBlobs } from './remote.js';
import {
  addCommittedSnapshot,
  addSnapshot,
  commitSnapshot,
  convertSnapshot,
  measureUpper,
  noteApplied,
  relabelSnapshot,
  removeSnapshot,
} from './snapshots.js';

export const operations = {
  addStoredLayer,
  addVariant,
  holdPresentLayer,
  markDamaged,
  dropBlob,
  healStoredLayer,
  fixInherited,
  extendChain,
  moveChain,
  noteDriver,
  addImage,
  tagImage,
  removeImage,
  addContainer,
  countMount,
  countUnmount,
  removeContainer,
  addSnapshot,
  addCommittedSnapshot,
  noteApplied,
  commitSnapshot,
  convertSnapshot,
  measureUpper,
  relabelSnapshot,
  removeSnapshot,
  addLease,
  updateLease,
  removeLease,
  beginOperation,
  endOperation,
  removeInternalLeases,
  renewLease,
  dropLease,
  holdPartial,
  noteRemoteBlobs,
  bindBuildCache,
  useBuildCache,
  removeBuildCache,
  collect,
  recordEvent,
  trimEvents,
  ping,
} as const;

/**
 * Operations whose effect a power cut ends anyway, as it ends the mounts that they count, and the operations that their
 * leases are for: their commit need not wait for the disk. It outlives the process all the same.
 */
export const LOST_WITH_POWER: ReadonlySet<OperationName> = new Set([
  'countMount',
  'countUnmount',
  'holdPresentLayer',
  'beginOperation',
  'endOperation',
  'ping',
]);

export type OperationName = keyof typeof operations;
export type OperationArgs<K extends OperationName> = Parameters<(typeof operations)[K]>[1];
export type OperationResult<K extends OperationName> = ReturnType<(typeof operations)[K]>;
