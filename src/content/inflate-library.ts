import { createRequire } from 'node:module';
import type koffi from 'koffi';
import type { KoffiFunc, LibraryHandle } from 'koffi';

type Koffi = typeof koffi;

/** A native function that can also run on another thread. */
export type NativeFunction<T extends (...args: never[]) => unknown> = KoffiFunc<T>;

/** What this process can call of a shared library; null where koffi or the library cannot be loaded. */
export function openLibrary(file: string): { koffi: Koffi; library: LibraryHandle } | null {
  if (process.env['LAYERD_NO_FFI'] === '1') return null;
  try {
    const loaded = createRequire(import.meta.url)('koffi') as Koffi;
    return { koffi: loaded, library: loaded.load(file) };
  } catch {
    return null; // an optional library: the caller has another way, or says what is missing
  }
}

/** Runs a native call on another thread. Its buffers must stay referenced until then. */
export function onThread<A extends unknown[], R>(
  call: { async: (...args: [...A, (error: Error | null, result: R) => void]) => void },
  ...args: A
): Promise<R> {
  return new Promise((resolve, reject) => {
    call.async(...args, (error, result) => {
      if (error) reject(error);
      else resolve(result);
    });
  });
}
