import { cachedFixture } from '../../bench/fixtures/fixtures.js';
import { RECIPES } from '../../bench/fixtures/recipes.js';
import type { FixtureName, Recipe } from '../../bench/fixtures/recipes.js';
import { needsProgram, needsRoot } from '../support.js';
import type { Prerequisite } from '../support.js';

/** What a test needs to have a fixture: nothing where it is in the cache, else root and the programs that make it. */
export function needsFixture(name: FixtureName): Prerequisite[] {
  if (cachedFixture(name) !== undefined) return [];
  const recipe: Recipe = RECIPES[name];
  return [needsRoot(), ...Object.entries(recipe.programs).map(([program, bringer]) => needsProgram(program, bringer))];
}

/** What a test needs to list a tree in full. */
export function needsTreeListing(): Prerequisite[] {
  return [needsRoot(), needsProgram('python3')];
}

/** What a test needs to have containerd and umoci unpack an image. */
export function needsPeers(): Prerequisite[] {
  return [...needsTreeListing(), needsProgram('containerd'), needsProgram('umoci')];
}
