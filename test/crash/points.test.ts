/**
 * Every operation, killed at every call by which it changes the disk, the mount table or the database, or given an error
 * there. Then a start; and what was answered must be there and whole, nothing half-made may show, every byte must be
 * accounted for, and the operation must succeed when it is done again. The points are found by recording each operation
 * (boundary.ts), not listed.
 *
 * `npm test` kills once at each call that the code makes, wherever it is made first; LAYERD_CRASH=full goes through all
 * operations with all drivers, before and behind each point, at its first and its last hit, and with EIO and ENOSPC.
 */
import { describe, expect, it } from 'vitest';
import type { DriverName } from '../../src/core/words.js';
import { TESTED_DRIVERS } from '../e2e/store.js';
import { describeWith, needsRoot } from '../support.js';
import type { BoundaryPlan } from './boundary-plan.js';
import { siteOf, Theatre, type Point } from './points.js';
import { SCENES, type SceneName } from './scenes.js';

const FULL = process.env['LAYERD_CRASH'] === 'full';
const ALL = Object.keys(SCENES) as SceneName[];
/** Where the other drivers do something that overlay2 does not. */
const DIFFERENT: SceneName[] = ['load', 'create', 'mount', 'unmount', 'gc'];
/** Calls at which something was killed already. */
const seen = new Set<string>();

describeWith('points of failure', [needsRoot()], () => {
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
    for (const act of points.flatMap(FULL ? everyDeed : firstKill)) await theatre.play(scene, act);
    await theatre.close();
    expect(theatre.failures).toEqual([]);
  } finally {
    await theatre.remove();
  }
}

type Act = Pick<BoundaryPlan, 'deed' | 'point' | 'hit'>;

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
