/** Whom to believe: certificate authorities of the machine, and those that HOST:PORT/ below the certificates' directory names. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createSecureContext, type SecureContext } from 'node:tls';
import { isErrno } from '../../core/errors.js';

/** Where distributions put all authorities that the machine trusts. */
const SYSTEM_BUNDLES = ['/etc/ssl/certs/ca-certificates.crt', '/etc/pki/tls/certs/ca-bundle.crt', '/etc/ssl/cert.pem'];

export interface Trust {
  secureContext: SecureContext;
  /** False: the connection is encrypted, and nobody knows to whom. */
  rejectUnauthorized: boolean;
}

export class TrustStore {
  private readonly directory: string | null;
  private readonly insecure: ReadonlySet<string>;
  private readonly known = new Map<string, Promise<Trust>>();
  private system: Promise<Buffer | null> | null = null;
  /** That of all hosts that have nothing of their own: reading all authorities takes tens of milliseconds. */
  private common: SecureContext | null = null;

  constructor(directory: string | null, insecure: readonly string[]) {
    this.directory = directory;
    this.insecure = new Set(insecure);
  }

  /** The host may be spoken to without TLS, or with certificates that nobody vouches for. */
  isInsecure(host: string): boolean {
    return this.insecure.has(host) || this.insecure.has(host.replace(/:\d+$/, ''));
  }

  /** `host`: with its port where that is not the usual one. */
  of(host: string): Promise<Trust> {
    const known = this.known.get(host) ?? this.read(host);
    this.known.set(host, known);
    known.catch(() => this.known.delete(host));
    return known;
  }

  private async read(host: string): Promise<Trust> {
    this.system ??= firstOf(SYSTEM_BUNDLES);
    const [bundle, { authorities, certificate, key }] = await Promise.all([this.system, this.ownOf(host)]);
    const system = bundle === null ? [] : [bundle];
    const rejectUnauthorized = !this.isInsecure(host);
    const shown = certificate === null || key === null ? null : { cert: certificate, key };
    if (authorities.length === 0 && shown === null) {
      this.common ??= contextOf(system, null);
      return { secureContext: this.common, rejectUnauthorized };
    }
    return { secureContext: contextOf([...system, ...authorities], shown), rejectUnauthorized };
  }

  private async ownOf(
    host: string,
  ): Promise<{ authorities: Buffer[]; certificate: Buffer | null; key: Buffer | null }> {
    const directory = this.directory === null ? null : join(this.directory, host);
    const names = directory === null ? [] : await namesIn(directory);
    const all = async (suffix: string): Promise<Buffer[]> =>
      Promise.all(names.filter((name) => name.endsWith(suffix)).map((name) => readFile(join(directory ?? '', name))));
    const [authorities, certificates, keys] = await Promise.all([all('.crt'), all('.cert'), all('.key')]);
    return { authorities, certificate: certificates[0] ?? null, key: keys[0] ?? null };
  }
}

/** Without any authorities Node's own are believed. */
function contextOf(ca: Buffer[], shown: { cert: Buffer; key: Buffer } | null): SecureContext {
  return createSecureContext({ ...(ca.length === 0 ? {} : { ca }), ...shown });
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory)).sort();
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  }
}

async function firstOf(paths: readonly string[]): Promise<Buffer | null> {
  for (const path of paths) {
    try {
      return await readFile(path);
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'EACCES')) throw error;
    }
  }
  return null; // Node brings its own
}
