/**
 * Who we are to a registry: what the caller gave, else what the Docker configuration file has: credentials, a credential
 * helper for this registry, or one for all.
 */
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { isErrno, LayerdError } from '../../core/errors.js';
import type { Credentials } from '../../core/words.js';
import { type Field, parseJson } from '../json.js';

const HELPER_MS = 60_000;
const HELPER_NAME = /^[A-Za-z0-9._-]+$/;
/** What helpers answer instead of a user name when the secret is an identity token. */
const TOKEN_USER = '<token>';
/** What Docker Hub is called in configuration files. */
const DOCKER_HUB = 'https://index.docker.io/v1/';

/** Credentials for `domain` (as references name it) from a configuration file; null where it has none. */
export async function storedCredentials(file: string | null, domain: string): Promise<Credentials | null> {
  const config = file === null ? null : await readConfig(file);
  if (config === null) return null;
  const names = domain === 'docker.io' ? [DOCKER_HUB, domain, 'index.docker.io'] : [domain];
  const helper = helperFor(config, names);
  if (helper !== null) {
    for (const name of names) {
      const found = await askHelper(helper, name);
      if (found !== null) return found;
    }
  }
  return storedIn(config.at('auths'), names);
}

async function readConfig(file: string): Promise<Field | null> {
  try {
    return parseJson(file, await readFile(file));
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return null;
    throw new LayerdError(
      'CREDENTIALS_INVALID',
      `the credentials in ${file} cannot be read: ${(error as Error).message}`,
      {
        details: { file },
        hint: 'It should be a Docker configuration file (setting registry.credentials_file), or off.',
        cause: error,
      },
    );
  }
}

function helperFor(config: Field, names: readonly string[]): string | null {
  const own = config.at('credHelpers').entries();
  const helper = own.find(([name]) => names.includes(hostOf(name)) || names.includes(name))?.[1].text();
  const name = helper ?? config.at('credsStore').optionalText() ?? '';
  if (name === '') return null;
  if (HELPER_NAME.test(name)) return name;
  throw new LayerdError('CREDENTIALS_INVALID', `${JSON.stringify(name)} cannot be the name of a credential helper`, {
    hint: 'Names of helpers are what follows docker-credential- in the name of their program.',
  });
}

function storedIn(auths: Field, names: readonly string[]): Credentials | null {
  for (const [name, entry] of auths.entries()) {
    if (!names.includes(name) && !names.includes(hostOf(name))) continue;
    const identityToken = entry.at('identitytoken').optionalText() ?? '';
    if (identityToken !== '') return { identityToken };
    const auth = entry.at('auth').optionalText() ?? '';
    if (auth !== '') return decodeAuth(name, auth);
    const [username, password] = [entry.at('username').optionalText(), entry.at('password').optionalText()];
    if (username !== undefined && password !== undefined) return { username, password };
  }
  return null;
}

/** Base64 of `name:password`. */
function decodeAuth(name: string, auth: string): Credentials {
  const decoded = Buffer.from(auth, 'base64').toString('utf8').replace(/\0+$/, '');
  const colon = decoded.indexOf(':');
  if (colon > 0) return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
  throw new LayerdError('CREDENTIALS_INVALID', `the entry of ${name} in the configuration file is not name:password`, {
    details: { registry: name },
    hint: 'Log in again.',
  });
}

/** Old files name registries by a whole address. */
function hostOf(name: string): string {
  return name.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
}

/** `docker-credential-NAME get`: the registry on standard input, a JSON document as the answer. */
async function askHelper(helper: string, registry: string): Promise<Credentials | null> {
  const program = `docker-credential-${helper}`;
  const { status, output } = await runHelper(program, registry);
  if (status !== 0) {
    if (/credentials not found/i.test(output)) return null;
    throw helperFailed(program, output.trim().slice(0, 300), undefined);
  }
  const answer = parseJson(program, Buffer.from(output));
  const username = answer.at('Username').optionalText() ?? '';
  const secret = answer.at('Secret').optionalText() ?? '';
  if (username === '' && secret === '') return null;
  return username === TOKEN_USER ? { identityToken: secret } : { username, password: secret };
}

function runHelper(program: string, input: string): Promise<{ status: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, ['get'], { stdio: ['pipe', 'pipe', 'ignore'], timeout: HELPER_MS });
    const chunks: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
    child.once('error', (error) => reject(helperFailed(program, error.message, error)));
    child.once('close', (status) => resolve({ status, output: Buffer.concat(chunks).toString('utf8') }));
    // one that ends without reading is told by how it ended
    child.stdin.on('error', () => undefined);
    child.stdin.end(input);
  });
}

function helperFailed(program: string, what: string, cause: unknown): LayerdError {
  return new LayerdError('CREDENTIALS_INVALID', `the credential helper ${program} failed: ${what}`, {
    details: { program },
    hint: 'The daemon runs it: it must be on the PATH of the daemon, and work for its user.',
    cause,
  });
}
