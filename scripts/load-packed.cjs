// Loads the packed programs and their threads: each file with the bytecode that V8 made of it when it was built
// (scripts/keep-bytecode.cjs), where this is the same V8. Without it, or with another, the file is compiled as ever.
const { readFileSync } = require('node:fs');
const { createRequire } = require('node:module');
const { setFlagsFromString } = require('node:v8');
const { Script, constants } = require('node:vm');

/**
 * How much code V8 draws into a function that it optimises, in bytes; 920 by default. A fresh thread spends a quarter of an
 * import on optimising: with less drawn in that takes a third of it, and what is optimised runs as fast. Before anything is
 * loaded, since bytecode is taken only where the flags are those that it was made with.
 */
setFlagsFromString('--max-inlined-bytecode-size-cumulative=200');

const loaded = new Map();
const requireOther = createRequire(__filename);

/** Runs a packed file once, and gives what it exports. */
function load(name) {
  const known = loaded.get(name);
  if (known !== undefined) return known.exports;
  const module = { exports: {} };
  loaded.set(name, module);
  const filename = `${__dirname}/${name}`;
  const script = new Script(
    `(function (exports, require, module, __filename, __dirname) {${readFileSync(filename, 'utf8')}\n})`,
    {
      filename,
      cachedData: bytecode(`${filename}.bytecode`),
      importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    },
  );
  script.runInThisContext()(module.exports, requireFrom, module, filename, __dirname);
  return module.exports;
}

function requireFrom(id) {
  return id.startsWith('./') ? load(id.slice(2)) : requireOther(id);
}

function bytecode(path) {
  try {
    return readFileSync(path);
  } catch (error) {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  }
}

exports.load = load;
