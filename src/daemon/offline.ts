/** What is done to a store while no daemon runs on it. */
import { engineConfigOf } from '../config/engine.js';
import type { Configuration } from '../config/load.js';
import { Engine } from '../engine.js';
import { openLog } from './log.js';

/** Makes the database anew from the files, and says what came of it. Throws STORE_LOCKED while a daemon has the root. */
export async function rebuildStore({ settings }: Configuration): Promise<void> {
  const opened = openLog('warn');
  const { layers, images, lost } = await Engine.rebuild(engineConfigOf(settings), opened.log);
  await opened.finish();
  process.stdout.write(`${layers} layers and ${images.length} images are known again.\n`);
  for (const { imageId, refs } of images) process.stdout.write(`  ${imageId}  ${refs.join(' ')}\n`);
  for (const { path, reason } of lost) process.stdout.write(`  set aside into lost/: ${path}: ${reason}\n`);
}

/** Puts a backup back. Throws INVALID_ARGUMENT, STORE_LOCKED, STORE_DAMAGED, STORE_NEWER. */
export function restoreStore({ settings }: Configuration, file: string): void {
  const aside = Engine.restore(engineConfigOf(settings), file);
  process.stdout.write('The database is restored. The next start compares it with the files.\n');
  if (aside !== null) process.stdout.write(`The one that was there lies in ${aside} until you remove it.\n`);
}
