// Compiles src, drivers, test and bench into dist/ (or --out DIR, so that several builds can live side by side), and packs
// the two programs and their threads into few files: loading some three hundred modules one by one takes longer than
// all else that a start does (bench/README.md).
import { execFileSync } from 'node:child_process';
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { rolldown } from 'rolldown';

const { values } = parseArgs({ options: { out: { type: 'string', default: 'dist' } } });
const root = fileURLToPath(new URL('..', import.meta.url));
const out = `${root}${values.out}`;
rmSync(out, { recursive: true, force: true });
execFileSync(
  process.execPath,
  [`${root}node_modules/typescript/bin/tsc`, '-p', `${root}tsconfig.json`, '--outDir', out],
  {
    stdio: 'inherit',
  },
);
await pack();
writeFileSync(`${out}/.built`, '');

/** dist/src/bin lies as deep as the modules do, so that a path relative to a module means the same in a packed one. */
async function pack() {
  const input = {
    layerd: `${out}/src/layerd.js`,
    layerctl: `${out}/src/layerctl.js`,
    thread: `${out}/src/workers/thread.js`,
    'writer-thread': `${out}/src/metadata/writer-thread.js`,
    'aside-thread': `${out}/src/metadata/aside-thread.js`,
  };
  const packed = await rolldown({ input, platform: 'node', external: ['koffi', 'better-sqlite3'], logLevel: 'warn' });
  await packed.write({
    dir: `${out}/src/bin`,
    format: 'esm',
    entryFileNames: '[name].js',
    chunkFileNames: '[name]-[hash].js',
  });
  await packed.close();
  for (const program of ['layerd', 'layerctl']) chmodSync(`${out}/src/bin/${program}.js`, 0o755);
}
