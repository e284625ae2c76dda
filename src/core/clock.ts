/** The wall clock in microseconds. Date.now() alone is too coarse to say which of two calls came first. */

let offsetMs: number | null = null;

/** Microseconds since the epoch; follows the system's clock where that is set. */
export function wallClockMicros(): number {
  const coarse = Date.now();
  const fine = offsetMs === null ? Number.NaN : offsetMs + performance.now();
  // outside of this millisecond: never asked before, or the clock was set
  if (!(fine >= coarse && fine < coarse + 1.01)) return calibrate();
  return Math.floor(fine * 1000);
}

/** Takes at most a millisecond: waits for the next tick of the coarse clock. */
function calibrate(): number {
  const start = Date.now();
  let tick = start;
  while (tick === start) tick = Date.now();
  offsetMs = tick - performance.now();
  return tick * 1000;
}
