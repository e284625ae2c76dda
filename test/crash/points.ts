/** Goes through the points of a scene: records them, then lets an actor die (or meet an error) at each. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { DriverName } from '../../src/core/words.js';
import { removeStore } from '../e2e/store.js';
import type { ActorPlan } from './actor-plan.js';
import type { BoundaryPlan } from './boundary-plan.js';
import { writeCrashImage } from './image.js';
import type { SceneName } from './scenes.js';

const ACTOR = fileURLToPath(new URL('actor.js', import.meta.url));
/** No actor takes so long, however busy the machine is. */
const ACTOR_MS = 600_000;
const BOUNDARY = fileURLToPath(new URL('boundary.js', import.meta.url));

/** A point of a scene, and how often it was passed. */
export interface Point {
  name: string;
  hits: number;
}

/** The call and the function that makes it: the same in all scenes and with all drivers. */
export function siteOf({ name }: Point): string {
  return (name.split(' < ')[0] ?? name).replace(/:\d+$/, '');
}

type Act = Pick<BoundaryPlan, 'deed' | 'point' | 'hit'>;

/** The last actor plays nothing: it looks. */
const LOOK: Act = { deed: 'record', point: '', hit: 0 };

/** A store that actors play on, one after the other; a fresh one after each failure. */
export class Theatre {
  /** What was not sound, and behind which act. */
  readonly failures: string[] = [];
  private readonly driver: DriverName;
  private work: string;
  /** The scene that the last actor left, and what happened in it. */
  private last: { scene: SceneName; story: string } | null = null;

  constructor(driver: DriverName) {
    this.driver = driver;
    this.work = makeWork();
  }

  /** Every point that a scene passes. */
  record(scene: SceneName): Point[] {
    this.act(scene, LOOK);
    const counts = new Map<string, number>();
    for (const line of readFileSync(join(this.work, 'control', 'points'), 'utf8')
      .split('\n')
      .slice(0, -1)) {
      counts.set(line, (counts.get(line) ?? 0) + 1);
    }
    return [...counts].map(([name, hits]) => ({ name, hits }));
  }

  /** An actor looks at what the last one left, and plays `scene` to the point. What is not sound is a failure. */
  async play(scene: SceneName | null, act: Act): Promise<void> {
    try {
      this.act(scene, act);
    } catch (thrown) {
      this.failures.push((thrown as Error).message);
      await this.remove();
      this.work = makeWork();
      this.last = null;
    }
  }

  /** Looks at what the last actor left. */
  close(): Promise<void> {
    return this.play(null, LOOK);
  }

  async remove(): Promise<void> {
    await removeStore(join(this.work, 'home'));
    rmSync(this.work, { recursive: true, force: true });
  }

  private act(scene: SceneName | null, { deed, point, hit }: Act): void {
    const control = join(this.work, 'control');
    for (const file of ['armed', 'done', 'hits', 'points']) rmSync(join(control, file), { force: true });
    const boundary: BoundaryPlan = { directory: control, deed, point, hit };
    const plan: ActorPlan = { work: this.work, driver: this.driver, after: this.last?.scene ?? null, scene, deed };
    const { status, signal, stderr } = spawnSync(
      process.execPath,
      ['--import', BOUNDARY, ACTOR, JSON.stringify(plan)],
      {
        encoding: 'utf8',
        env: { ...process.env, BOUNDARY: JSON.stringify(boundary) },
        // one that waits for ever is told from one that died
        timeout: ACTOR_MS,
        killSignal: 'SIGABRT',
      },
    );
    const story = `${scene}: ${deed} at ${point} (hit ${hit})`;
    const played = scene === null ? status === 0 : signal === 'SIGKILL';
    if (!played || stderr !== '') throw new Error(`${story}\nafter ${this.last?.story ?? 'nothing'}\n${stderr}`);
    this.last = scene === null ? null : { scene, story };
  }
}

function makeWork(): string {
  const work = mkdtempSync(join(tmpdir(), 'layerd-points-'));
  mkdirSync(join(work, 'control'));
  mkdirSync(join(work, 'home'));
  writeCrashImage(join(work, 'image.tar'));
  return work;
}
