// Loaded before the packed programs while they are built, and into each of their threads: writes the bytecode of what has
// run beside each packed file, for load-packed.cjs. Of several threads that run one file, the one that ran most of it counts.
const { renameSync, statSync, writeFileSync } = require('node:fs');
const { threadId } = require('node:worker_threads');
const vm = require('node:vm');

const INTERVAL_MS = 300;
const scripts = [];
vm.Script = class extends vm.Script {
  constructor(source, options) {
    super(source, { ...options, cachedData: undefined });
    scripts.push({ script: this, path: `${options.filename}.bytecode` });
  }
};

function keep() {
  for (const { script, path } of scripts) {
    const bytecode = script.createCachedData();
    if (bytecode.length <= sizeOf(path)) continue;
    const draft = `${path}.${threadId}`;
    writeFileSync(draft, bytecode);
    renameSync(draft, path);
  }
}

function sizeOf(path) {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

setInterval(keep, INTERVAL_MS).unref();
process.on('exit', keep);
