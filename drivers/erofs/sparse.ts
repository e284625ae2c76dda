/**
 * How a sparse file is mapped: in chunks of one size, each of which is a hole, lies in the tar as it is, or must be
 * copied into the image, since parts of it lie apart or do not start on a block.
 *
 * The larger the chunks, the smaller the table and the more is copied. A tar of two kilobytes can name a file of a
 * tebibyte, so the size is chosen by what both cost, and the caller bounds it.
 */
import type { SparseSegment } from '../../src/tar/entry.js';
import { BLOCK_BYTES, CHUNK_BITS_MAX, CHUNK_ENTRY_BYTES, roundUp } from './format.js';

/** Chunks `first` … `end` - 1 hold data: in the tar, one behind the other from `offset` on, or to be copied (null). */
export interface ChunkRun {
  first: number;
  end: number;
  offset: number | null;
}

export interface ChunkPlan {
  /** A chunk is 512 << bits bytes. */
  bits: number;
  chunks: number;
  /** In order, not overlapping; what lies between them is a hole. */
  runs: ChunkRun[];
  /** Bytes of the table and of the copies. */
  cost: number;
}

/** The cheapest plan. `size` is the length of the file, `dataOffset` where its segments begin in the tar. */
export function planChunks(size: number, segments: readonly SparseSegment[], dataOffset: number): ChunkPlan {
  let best = planWith(CHUNK_BITS_MAX, size, segments, dataOffset);
  for (let bits = CHUNK_BITS_MAX - 1; bits >= 0; bits -= 1) {
    if (tableBytes(bits, size) >= best.cost) break; // the table alone only grows from here on
    const plan = planWith(bits, size, segments, dataOffset);
    if (plan.cost < best.cost) best = plan;
  }
  return best;
}

/** Bytes that all copied runs take. */
export function copiedBytes(plan: ChunkPlan, size: number): number {
  let bytes = 0;
  for (const run of plan.runs) if (run.offset === null) bytes += runBytes(plan, size, run);
  return bytes;
}

/** Bytes of the file that lie in these chunks, up to a whole block. */
export function runBytes(plan: ChunkPlan, size: number, run: ChunkRun): number {
  const bytes = chunkSize(plan.bits);
  return roundUp(Math.min(run.end * bytes, size), BLOCK_BYTES) - run.first * bytes;
}

/** Bytes of one chunk. */
export function chunkSize(bits: number): number {
  return BLOCK_BYTES * 2 ** bits;
}

function tableBytes(bits: number, size: number): number {
  return Math.ceil(size / chunkSize(bits)) * CHUNK_ENTRY_BYTES;
}

function planWith(bits: number, size: number, segments: readonly SparseSegment[], dataOffset: number): ChunkPlan {
  const bytes = chunkSize(bits);
  const plan: ChunkPlan = { bits, chunks: Math.ceil(size / bytes), runs: [], cost: tableBytes(bits, size) };
  let stored = dataOffset;
  for (const { offset, length } of segments) {
    if (length > 0) placeSegment(plan, size, { offset, end: offset + length, stored });
    stored += length;
  }
  plan.cost += copiedBytes(plan, size);
  return plan;
}

function placeSegment(plan: ChunkPlan, size: number, segment: { offset: number; end: number; stored: number }): void {
  const bytes = chunkSize(plan.bits);
  const touched = { first: Math.floor(segment.offset / bytes), end: Math.ceil(segment.end / bytes) };
  // Whole chunks: the last one of the file may be short, what follows it in the tar is not part of the file.
  const first = Math.ceil(segment.offset / bytes);
  const end = segment.end === size ? touched.end : Math.floor(segment.end / bytes);
  const offset = segment.stored + first * bytes - segment.offset;
  if (first < end && offset % BLOCK_BYTES === 0) {
    copy(plan, touched.first, first);
    plan.runs.push({ first, end, offset });
    copy(plan, end, touched.end);
  } else {
    copy(plan, touched.first, touched.end);
  }
}

/** A chunk that two segments share is copied once. */
function copy(plan: ChunkPlan, first: number, end: number): void {
  const last = plan.runs.at(-1);
  if (last?.offset === null && first <= last.end) last.end = Math.max(last.end, end);
  else if (first < end) plan.runs.push({ first, end, offset: null });
}
