/** What boundary.ts does at a point: writes all points down, kills the process, or lets the call fail. */
export type Deed = 'record' | 'kill before' | 'kill after' | 'EIO' | 'ENOSPC';

export interface BoundaryPlan {
  /** Where `armed`, `points` and the counting of hits lie. */
  directory: string;
  deed: Deed;
  /** Which point, and which of its hits; of no matter in recording. */
  point: string;
  hit: number;
}
