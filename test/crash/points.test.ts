/**
 * Every operation, killed at every call by which it changes the disk, the mount table or the database, or given an error
 * there. Then a start; and what was answered must be there and whole, nothing half-made may show, every byte must be
 * accounted for, and the operation must succeed when it is done again. The points are found by recording each operation
 * (boundary.ts), not listed.
 *
 * `npm test` kills once at each call that the code makes, wherever it is made first, and of what comes through doors and
 * from registries it takes a sample (LAYERD_SEED repeats it); LAYERD_CRASH=full goes through all operations with all
 * drivers, before and behind each point, at its first and its last hit, and with EIO and ENOSPC.
 */
import { describe, expect, it } from 'vitest';
import type { DriverName } from '../../src/core/words.js';
import { TESTED_DRIVERS } from '../e2e/store.js';
import { describeWith, needsRoot } from '../support.js';
import type { BoundaryPlan } from './boundary-plan.js';
import { DOOR_SCENES } from './door-scenes.js';
import { siteOf, Theatre, type Point } from './points.js';
import { FULL, Random, SEED } from './random.js';
import { SCENES, type SceneName } from './scenes.js';

const ALL = Object.keys(SCENES) as SceneName[];
/** Where the other drivers do something that overlay2 does not. */
const DIFFERENT: SceneName[] = ['load', 'create', 'mount', 'unmount', 'gc'];
/** How many acts of a scene of doors there are in `npm test`. */
const SAMPLE = 4;
/** Calls at which something was killed already. */
const seen = new Set<string>();

describeWith(`points of failure (LAYERD_SEED=${SEED})`, [needsRoot()], () => {
  describe.each(TESTED_DRIVERS)('%s', (driver) => {
    it.each(scenesOf(driver))('%s', (scene) => goThrough(driver, scene), 4 * 3_600_000);
  });
});

function scenesOf(driver: DriverName): SceneName[] {
  return FULL || driver === 'overlay2' ? ALL : DIFFERENT;
}

async function goThrough(driver: DriverName, scene: SceneName): Promise<void> {
  const theatre = new Theatre(driver);
  try {
    const points = theatre.record(scene);
    expect(points).not.toEqual([]);
    for (const act of actsOf(scene, points)) await theatre.play(scene, act);
    await theatre.close();
    expect(theatre.failures).toEqual([]);
  } finally {
    await theatre.remove();
  }
}

type Act = Pick<BoundaryPlan, 'deed' | 'point' | 'hit'>;

function actsOf(scene: SceneName, points: readonly Point[]): Act[] {
  if (FULL) return points.flatMap(everyDeed);
  return scene in DOOR_SCENES ? sample(scene, points.flatMap(everyDeed)) : points.flatMap(firstKill);
}

/** Some of the acts, without a second look at one. */
function sample(scene: SceneName, acts: Act[]): Act[] {
  const random = new Random(`${SEED} ${scene}`);
  return Array.from({ length: Math.min(SAMPLE, acts.length) }, () => acts.splice(random.below(acts.length), 1)).flat();
}

function firstKill(point: Point): Act[] {
  const site = siteOf(point);
  // What a probe leaves is one directory, wherever it dies: all of its points are for the long form.
  if (seen.has(site) || /drivers\/.*prob/.test(point.name)) return [];
  seen.add(site);
  return [{ deed: 'kill after', point: point.name, hit: 1 }];
}

function everyDeed({ name: point, hits }: Point): Act[] {
  const acts: Act[] = [
    { deed: 'kill before', point, hit: 1 },
    { deed: 'kill after', point, hit: 1 },
    { deed: 'EIO', point, hit: 1 },
    { deed: 'ENOSPC', point, hit: 1 },
  ];
  if (hits > 1) acts.push({ deed: 'kill after', point, hit: hits }, { deed: 'EIO', point, hit: hits });
  return acts;
}
