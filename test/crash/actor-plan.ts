import type { DriverName } from '../../src/core/words.js';
import type { Deed } from './boundary-plan.js';
import type { SceneName } from './scenes.js';

/** What an actor (actor.ts) is to do. */
export interface ActorPlan {
  /** The directory with `home` (root and run), `control` (of boundary.ts) and the archive. */
  work: string;
  driver: DriverName;
  /** The scene that the actor before this one died in: what must hold now is looked at first. */
  after: SceneName | null;
  /** The scene to play; null to look only. */
  scene: SceneName | null;
  deed: Deed;
}
