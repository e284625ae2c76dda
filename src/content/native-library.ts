import { createRequire } from 'node:module';
import type koffi from 'koffi';
import type { KoffiFunc, LibraryHandle } from 'koffi';

type Koffi = typeof koffi;

/** A native function that can also run on another thread. */
export type NativeFunction<T extends (...args: never[]) => unknown> = KoffiFunc<T>;

/** What this process can call of a shared library (null: of itself); null where koffi or the library cannot be loaded. */
export function openLibrary(file: string | null): { koffi: Koffi; library: LibraryHandle } | null {
  if (process.env['LAYERD_NO_FFI'] === '1') return null;
  try {
    const loaded = createRequire(import.meta.url)('koffi') as Koffi;
    return { koffi: loaded, library: loaded.load(file) };
  } catch {
    return null; // an optional library: the caller has another way, or says what is missing
  }
}

/** Arguments of calls that run: nobody else need hold the buffers that a thread works on. */
const inFlight = new Set<unknown[]>();

/** Runs a native call on another thread: of libuv's pool. */
export function onThread<A extends unknown[], R>(
  call: { async: (...args: [...A, (error: Error | null, result: R) => void]) => void },
  ...args: A
): Promise<R> {
  return new Promise((resolve, reject) => {
    inFlight.add(args);
    call.async(...args, (error, result) => {
      inFlight.delete(args);
      if (error) reject(error);
      else resolve(result);
    });
  });
}
