/** What a thread holds while it rests: V8 looks for garbage when it needs room, and a thread that rests needs none. */
import { performance } from 'node:perf_hooks';
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

const LOOK_MS = 2_000;
/** A thread that was busy for less of the time rests. */
const RESTING = 0.02;
/** Growth that is worth a collection: some tens of milliseconds. */
const WORTH_BYTES = 6 * 1024 * 1024;
/** While a collection gives back as much, another one may, too: V8 lets the space of new objects shrink in its own time. */
const WORTH_AGAIN_BYTES = 1024 * 1024;

/** From now on this thread collects its garbage when it rests and its heap has grown since it did so last. */
export function collectWhileResting(): void {
  let seen = performance.eventLoopUtilization();
  let kept = 0;
  let collect: (() => void) | null = null;
  const look = (): void => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, seen);
    seen = now;
    const before = heapBytes();
    if (utilization > RESTING || before - kept < WORTH_BYTES) return;
    collect ??= collector();
    collect();
    const after = heapBytes();
    if (before - after < WORTH_AGAIN_BYTES) kept = after;
  };
  setInterval(look, LOOK_MS).unref();
}

function heapBytes(): number {
  return getHeapStatistics().total_heap_size;
}

/** V8's own collection. Node shows it behind a flag only, which a thread cannot be given; contexts that are made later have it. */
function collector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}
