import { TarScanner } from '../tar/scanner.js';
import type { TarEntry, TarHandler } from '../tar/entry.js';
import { catalogDamaged, type CatalogRecord } from './catalog.js';

/** Reads the records of a catalog back into the entries of its tar. */
export class CatalogReplay {
  private readonly scanner: TarScanner;
  private readonly path: string;
  private current: { entry: TarEntry; index: number } | null = null;
  private entries = 0;

  /** `path` is for errors; `onEntry` sees the entries in the order of the tar. */
  constructor(path: string, onEntry: (entry: TarEntry, index: number) => void = () => undefined) {
    this.path = path;
    const handler: TarHandler = {
      entry: (entry) => {
        this.current = { entry, index: this.entries++ };
        onEntry(entry, this.current.index);
      },
      data: () => {
        throw catalogDamaged(path, 'it holds bytes where a payload should be missing');
      },
      entryEnd: () => undefined,
    };
    this.scanner = new TarScanner(handler);
  }

  /** Takes the next record; of a payload, says which entry (the index counts from 0) it belongs to. */
  take(record: CatalogRecord): { entry: TarEntry; index: number } | null {
    if ('raw' in record) {
      this.scanner.write(record.raw);
      return null;
    }
    if (this.current === null || this.scanner.payloadDue !== record.payload) {
      throw catalogDamaged(this.path, 'its headers and its payload sizes do not fit');
    }
    this.scanner.skip(record.payload);
    return this.current;
  }

  finish(): void {
    this.scanner.finish();
  }
}
