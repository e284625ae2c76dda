/**
 * sha256 of a stream, on another thread where that is wanted and possible: by the functions of the OpenSSL that Node
 * itself carries and exports (SHA256_Init, _Update, _Final, whose state is a plain struct), called through libuv's pool.
 * Elsewhere node:crypto does it on this thread.
 */
import { createHash } from 'node:crypto';
import { digestFromHex, type Digest } from '../core/digest.js';
import { onThread, openLibrary, type NativeFunction } from './native-library.js';

/** The digest of the bytes that come by. */
export interface Digester {
  /**
   * The chunk stays untouched, and no other comes, until the promise is done; undefined: done now. `elsewhere`: on another
   * thread, for a caller that has other work meanwhile. One that would only wait is served faster here.
   */
  update(chunk: Buffer, elsewhere: boolean): Promise<void> | undefined;
  digest(): Digest;
}

/** SHA256_CTX has 112 bytes; the slack costs nothing. */
const STATE_BYTES = 256;
/** Below this the way to another thread and back takes longer than the work. */
const ELSEWHERE_BYTES = 64 * 1024;

interface Sha256 {
  init: NativeFunction<(state: Buffer) => number>;
  update: NativeFunction<(state: Buffer, bytes: Buffer, length: number) => number>;
  final: NativeFunction<(digest: Buffer, state: Buffer) => number>;
}

let loaded: Sha256 | null | undefined;

export function newDigester(): Digester {
  if (loaded === undefined) {
    loaded = load();
    if (loaded !== null && !agreesWithNode(loaded)) loaded = null;
  }
  return loaded === null ? new NodeDigester() : new NativeDigester(loaded);
}

function load(): Sha256 | null {
  const program = openLibrary(null)?.library;
  if (program === undefined) return null;
  try {
    return {
      init: program.func('int SHA256_Init(void *state)') as unknown as Sha256['init'],
      update: program.func('int SHA256_Update(void *state, void *bytes, size_t length)') as unknown as Sha256['update'],
      final: program.func('int SHA256_Final(void *digest, void *state)') as unknown as Sha256['final'],
    };
  } catch {
    return null; // a Node whose OpenSSL does not export them
  }
}

function agreesWithNode(sha256: Sha256): boolean {
  const [native, node] = [new NativeDigester(sha256), new NodeDigester()];
  for (const length of [0, 1, 63, 64, 65, 1000, 4096]) {
    const chunk = Buffer.alloc(length, `layer ${length}`);
    sha256.update(native.state, chunk, chunk.length);
    node.update(chunk);
  }
  return native.digest() === node.digest();
}

class NativeDigester implements Digester {
  readonly state = Buffer.alloc(STATE_BYTES);
  private readonly sha256: Sha256;

  constructor(sha256: Sha256) {
    this.sha256 = sha256;
    sha256.init(this.state);
  }

  update(chunk: Buffer, elsewhere: boolean): Promise<void> | undefined {
    if (elsewhere && chunk.length >= ELSEWHERE_BYTES) return this.updateElsewhere(chunk);
    this.sha256.update(this.state, chunk, chunk.length);
    return undefined;
  }

  digest(): Digest {
    const digest = Buffer.alloc(32);
    this.sha256.final(digest, this.state);
    return digestFromHex(digest.toString('hex'));
  }

  private async updateElsewhere(chunk: Buffer): Promise<void> {
    await onThread(this.sha256.update, this.state, chunk, chunk.length);
  }
}

class NodeDigester implements Digester {
  private readonly hash = createHash('sha256');

  update(chunk: Buffer): undefined {
    this.hash.update(chunk);
  }

  digest(): Digest {
    return digestFromHex(this.hash.digest('hex'));
  }
}
