/** The command line of layerd: the commands of src/cli on the client of src/client. */
import { Command, CommanderError } from 'commander';
import { buildCacheCommands } from './cli/build-cache.js';
import { Cli } from './cli/cli.js';
import { containerCommands } from './cli/containers.js';
import { refuseEmpty, separated } from './cli/command-line.js';
import { EXIT, EXIT_HELP } from './cli/exit-codes.js';
import { imageCommands } from './cli/images.js';
import { layerCommands } from './cli/layers.js';
import { runCommands } from './cli/run.js';
import { registryCommands } from './cli/registry.js';
import { storeCommands } from './cli/store.js';
import { systemCommands } from './cli/system.js';
import { isErrno } from './core/errors.js';
import { VERSION } from './core/version.js';

const program = new Command('layerctl')
  .description('Images, layers and containers of layerd.')
  .version(`layerctl ${VERSION}`, '-V, --version')
  .option('--socket <path>', 'socket of the daemon (default: $LAYERD_SOCKET, else /run/layerd/layerd.sock)')
  .option('--json', 'print JSON')
  .option('-q, --quiet', 'print ids only, and no progress')
  .configureHelp({ showGlobalOptions: true })
  .addHelpText('after', EXIT_HELP)
  .showHelpAfterError('(layerctl COMMAND --help says more)')
  .exitOverride();

program.hook('preAction', (_program, command) => refuseEmpty(command));

const cli = new Cli(program);
const groups = [
  imageCommands,
  registryCommands,
  layerCommands,
  containerCommands,
  runCommands,
  buildCacheCommands,
  storeCommands,
  systemCommands,
];
for (const add of groups) add(program, cli);

// `layerctl images | head` is no failure
process.stdout.on('error', (error) => {
  if (!isErrno(error, 'EPIPE')) throw error;
  process.exit(EXIT.ok);
});

program
  .parseAsync(separated(program, process.argv.slice(2)), { from: 'user' })
  .catch((thrown: unknown) => {
    if (thrown instanceof CommanderError) process.exitCode = thrown.exitCode === 0 ? EXIT.ok : EXIT.usage;
    else cli.fail(thrown);
  })
  .finally(() => cli.close());
