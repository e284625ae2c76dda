/** Layers as people look at them: a list with who shares each, and the tree that their chains form. */
import { LayerdError } from '../core/errors.js';
import type { LayerSummary, LayerTreeNode } from '../core/words.js';
import type { LayerRow } from '../metadata/rows.js';
import type { StoreContext } from './context.js';

export class LayerListing {
  private readonly context: StoreContext;

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Oldest first. */
  *list(): Generator<LayerSummary> {
    for (const row of this.context.reader.layers()) yield this.summary(row);
  }

  /** By diff ID or a unique prefix of its hex digits. */
  find(text: string): LayerRow {
    const { reader } = this.context;
    const hex = text.replace(/^sha256:/, '');
    const matches = /^[0-9a-f]{4,64}$/.test(hex) ? reader.layersByPrefix(hex) : [];
    const [first] = matches;
    if (first === undefined) {
      throw new LayerdError('LAYER_NOT_FOUND', `no layer has the diff ID ${text}`, {
        details: { layer: text },
        hint: '`layerctl layers` lists the layers.',
      });
    }
    if (matches.length > 1) {
      throw new LayerdError('AMBIGUOUS_ID', `several layers have diff IDs that begin with ${text}`, {
        details: { layer: text, matches: matches.map((row) => row.diff_id) },
        hint: 'Give more digits.',
      });
    }
    return first;
  }

  summary(row: LayerRow): LayerSummary {
    const { reader } = this.context;
    const copies = reader.storedLayers(row.id);
    return {
      diffId: row.diff_id,
      size: row.size,
      entries: row.entries,
      disk: copies.reduce((sum, copy) => sum + copy.disk, 0),
      drivers: [...new Set(copies.map((copy) => copy.driver))],
      created: row.created,
      chains: reader.chainsOfLayer(row.id).map((chain) => ({ chainId: chain.chain_id, parent: chain.parent_chain_id })),
      images: reader.imagesOfLayer(row.id).map((image) => image.image_id),
      containers: reader.containersOfLayer(row.id).map((container) => container.id),
    };
  }

  tree(): LayerTreeNode[] {
    const { reader } = this.context;
    const nodes = new Map<number, LayerTreeNode>();
    const roots: LayerTreeNode[] = [];
    // Shallow chains come first, so a parent is always there.
    for (const chain of reader.chains()) {
      const node: LayerTreeNode = {
        chainId: chain.chain_id,
        diffId: chain.diff_id,
        size: chain.size,
        images: [],
        containers: [],
        children: [],
      };
      nodes.set(chain.id, node);
      const siblings = chain.parent_id === null ? roots : nodes.get(chain.parent_id)?.children;
      siblings?.push(node);
    }
    for (const image of reader.images()) {
      const node = image.chain_id === null ? undefined : nodes.get(image.chain_id);
      const refs: string[] = reader.refs(image.id);
      node?.images.push(...(refs.length > 0 ? refs : [image.image_id]));
    }
    for (const container of reader.containers()) {
      if (container.chain_id !== null) nodes.get(container.chain_id)?.containers.push(container.name);
    }
    return roots;
  }
}
