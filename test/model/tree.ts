import { LayerTree } from '../../src/content/layer-tree.js';
import { TarScanner } from '../../src/tar/scanner.js';

/** The layer tree of an uncompressed tar. */
export function treeOfTar(tar: Buffer): LayerTree {
  const tree = new LayerTree();
  const scanner = new TarScanner({
    entry: (entry) => {
      tree.apply(entry);
    },
    data: () => {},
    entryEnd: () => {},
  });
  scanner.write(tar);
  scanner.finish();
  return tree;
}
