import { createRequire } from 'node:module';
import type { KoffiFunc, LibraryHandle } from 'koffi';

type Koffi = typeof import('koffi');

/** A native function that can also run on another thread. */
export type NativeFunction<T extends (...args: never[]) => unknown> = KoffiFunc<T>;

/** What this process can call of a shared library; null where koffi or the library cannot be loaded. */
export function openLibrary(file: string): { koffi: Koffi; library: LibraryHandle } | null {
  if (process.env['LAYERD_NO_FFI']) return null;
  try {
    const koffi = createRequire(import.meta.url)('koffi') as Koffi;
    return { koffi, library: koffi.load(file) };
  } catch {
    return null; // an optional library: the caller has another way, or says what is missing
  }
}

/** Runs a native call on another thread. Its buffers must stay referenced until then. */
export function onThread<A extends unknown[], R>(
  call: { async: (...args: [...A, (error: unknown, result: R) => void]) => void },
  ...args: A
): Promise<R> {
  return new Promise((resolve, reject) => {
    call.async(...args, (error, result) => {
      if (error) reject(error instanceof Error ? error : new Error(String(error)));
      else resolve(result);
    });
  });
}
