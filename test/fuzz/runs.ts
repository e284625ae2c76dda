/** LAYERD_CRASH=full (`npm run test:crash`) tries this many times as many cases: hundreds of thousands in all. */
const FACTOR = process.env['LAYERD_CRASH'] === 'full' ? 25 : 1;

/** How many cases to try where `npm test` tries `cases`. A failure prints its seed. */
export function runs(cases: number): number {
  return cases * FACTOR;
}
