/** The daemon's program: reads flags, then runs the daemon or prints its configuration. */
import { Command, CommanderError, Option } from 'commander';
import { dockerLines, PLUGIN_DIRECTORY, writeDockerPlugin } from './config/docker-plugin.js';
import { expectedText } from './config/kinds.js';
import { DEFAULT_CONFIG_FILE, loadConfiguration, variableHint, type Configuration } from './config/load.js';
import { printData, printToml } from './config/print.js';
import { environmentName, flagName, SETTING_LIST, type SettingKey } from './config/settings.js';
import { LayerdError } from './core/errors.js';
import { failureLine } from './daemon/failure.js';
import { VERSION } from './core/version.js';

const program = new Command('layerd')
  .description('A copy-on-write storage engine for container layers. Without a command: runs in the foreground.')
  .version(`layerd ${VERSION}`, '-V, --version')
  .option(
    '-c, --config <file>',
    `configuration file (default: $LAYERD_CONFIG, else ${DEFAULT_CONFIG_FILE} if it exists)`,
  )
  .allowExcessArguments(false)
  .configureHelp({ showGlobalOptions: true })
  .exitOverride();

const flags = new Map<SettingKey, Option>();
for (const [key, { kind, doc, fallback }] of SETTING_LIST) {
  const notes = [environmentName(key), expectedText(kind)];
  if (typeof fallback !== 'function') notes.push(`default ${kind.toToml(fallback)}`);
  const option = new Option(`--${flagName(key)} <value>`, `${doc} (${notes.join('; ')})`);
  flags.set(key, option);
  program.addOption(option);
}

/** Settings as the flags, the environment and the file say now. */
function load(): Configuration {
  const options = program.opts<Record<string, string | undefined>>();
  const given = new Map<SettingKey, string>();
  for (const [key, option] of flags) {
    const value = options[option.attributeName()];
    if (value !== undefined) given.set(key, value);
  }
  return loadConfiguration({ file: options['config'] ?? null, env: process.env, flags: given });
}

program.action(async () => {
  const { runDaemon } = await import('./daemon/run.js');
  // nothing that was forgotten to be closed may keep a stopped daemon alive
  process.exit(await runDaemon(load));
});
program
  .command('config')
  .description('print every effective setting and where it came from')
  .option('--json', 'as JSON')
  .action((options: { json?: boolean }) => {
    const configuration = load();
    for (const name of configuration.unknownVariables)
      process.stderr.write(`layerd: ${name} is not a setting (${variableHint(name)})\n`);
    const text = options.json === true ? JSON.stringify(printData(configuration), null, 2) : printToml(configuration);
    process.stdout.write(`${text}\n`);
  });
program
  .command('containerd-config')
  .description("print the lines for containerd's config.toml that make this layerd its snapshotter")
  .action(async () => {
    const { containerdLines } = await import('./config/containerd-lines.js');
    process.stdout.write(containerdLines(load().settings));
  });
program
  .command('install-docker-plugin')
  .description('let dockerd find this layerd as a storage driver; prints the lines for daemon.json')
  .option('--name <name>', "the storage driver's name", 'layerd')
  .option('--directory <dir>', 'where dockerd looks for plugins', PLUGIN_DIRECTORY)
  .action(({ name, directory }: { name: string; directory: string }) => {
    const file = writeDockerPlugin({ name, directory, socket: load().settings.docker_socket });
    process.stdout.write(`# ${file} is written\n${dockerLines({ name })}`);
  });
program
  .command('rebuild')
  .description('make the database anew from the files of the root, when it is lost; the daemon must be stopped')
  .action(async () => {
    const { rebuildStore } = await import('./daemon/offline.js');
    await rebuildStore(load());
  });
program
  .command('restore <file>')
  .description('put a copy that `layerctl backup` made in the place of the database; the daemon must be stopped')
  .action(async (file: string) => {
    const { restoreStore } = await import('./daemon/offline.js');
    restoreStore(load(), file);
  });
program
  .command('version')
  .description('print the version')
  .action(() => {
    process.stdout.write(`layerd ${VERSION} (Node.js ${process.version}, ${process.platform} ${process.arch})\n`);
  });

program.parseAsync().catch((error: unknown) => {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
  else if (error instanceof LayerdError) {
    process.stderr.write(failureLine(error));
    process.exitCode = 1;
  } else throw error;
});
