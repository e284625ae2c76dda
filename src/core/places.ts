import { join } from 'node:path';

/**
 * Where things lie. Names below the root are short: clients that mount by option string have one page for all lowers.
 *
 *   ROOT/lock            flock of the one daemon
 *   ROOT/db/             the database
 *   ROOT/l/DIR/          a stored layer: everything one driver keeps of one layer, self-describing
 *   ROOT/s/DIR/          a snapshot: upper and work, or a tree
 *   ROOT/t/DIR/          a tree of a whole chain (drivers that need one), rebuildable
 *   ROOT/b/FILE          a kept compressed blob, under a name of its own
 *   ROOT/i/HEX           what is known of an image, for the day when the database is lost
 *   ROOT/lost/           what a rebuild or a restore set aside
 *   ROOT/e/              an empty directory, the lowest lower where overlay wants two
 *   ROOT/trash/NAME      what is to be unlinked
 *   RUN/lock             flock of the one daemon, with the root it serves
 *   RUN/l/DIR/           the mount of a layer image
 *   RUN/m/DIR/           the merged root of a snapshot that we mounted
 */
export class Places {
  readonly root: string;
  readonly run: string;

  constructor(root: string, run: string) {
    this.root = root;
    this.run = run;
  }

  get lock(): string {
    return join(this.root, 'lock');
  }
  get database(): string {
    return join(this.root, 'db', 'layerd.db');
  }
  get layers(): string {
    return join(this.root, 'l');
  }
  layer(dir: string): string {
    return join(this.root, 'l', dir);
  }
  get snapshots(): string {
    return join(this.root, 's');
  }
  snapshot(dir: string): string {
    return join(this.root, 's', dir);
  }
  get trees(): string {
    return join(this.root, 't');
  }
  tree(dir: string): string {
    return join(this.root, 't', dir);
  }
  get blobs(): string {
    return join(this.root, 'b');
  }
  blob(file: string): string {
    return join(this.root, 'b', file);
  }
  get images(): string {
    return join(this.root, 'i');
  }
  image(hex: string): string {
    return join(this.root, 'i', hex);
  }
  get lost(): string {
    return join(this.root, 'lost');
  }
  get empty(): string {
    return join(this.root, 'e');
  }
  get trash(): string {
    return join(this.root, 'trash');
  }
  get runLock(): string {
    return join(this.run, 'lock');
  }
  get layerMounts(): string {
    return join(this.run, 'l');
  }
  layerMount(dir: string): string {
    return join(this.run, 'l', dir);
  }
  get merged(): string {
    return join(this.run, 'm');
  }
  mergedRoot(dir: string): string {
    return join(this.run, 'm', dir);
  }
}
