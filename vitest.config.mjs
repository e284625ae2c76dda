import { defineConfig } from 'vitest/config';

// The tests are compiled with the product and run on the compiled files: worker threads and the two programs are then
// the ones that users get (dist/src/bin). LAYERD_DIST names another build than dist/.
const dist = process.env.LAYERD_DIST ?? 'dist';

export default defineConfig({
  test: {
    include: [`${dist}/test/**/*.test.js`],
    exclude: ['node_modules/**'],
    pool: 'forks',
    maxWorkers: 2,
    // What hangs is found, what is slow on a busy machine is not taken for it. The long forms are those of npm run test:crash.
    testTimeout: process.env.LAYERD_CRASH === 'full' ? 36_000_000 : 300_000,
    hookTimeout: 300_000,
  },
});
