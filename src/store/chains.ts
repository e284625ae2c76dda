/** Layers upon each other. */
import type { ChainRow, LayerRow, StackedRow } from '../metadata/rows.js';
import type { ChainStep } from '../metadata/operations/chains.js';
import { chainId } from '../core/digest.js';
import { KeyedLock } from '../core/keyed-lock.js';
import type { DriverName } from '../core/words.js';
import { storedLayer, type StoreContext } from './context.js';
import type { CopyOptions, Layers } from './layers.js';

export class Chains {
  private readonly context: StoreContext;
  private readonly layers: Layers;
  /** Fixing what a copy inherits is done by one at a time. */
  private readonly fixing = new KeyedLock();

  constructor(context: StoreContext, layers: Layers) {
    this.context = context;
    this.layers = layers;
  }

  /**
   * The chain of these layers, bottom first; made where it is new. The layers must be held by a lease. Null for no
   * layers. Layers whose tar implies directories take their attributes from the chain below, so they wait for it.
   */
  async ensure(layers: readonly LayerRow[]): Promise<ChainRow | null> {
    const { reader, writer } = this.context;
    let parent: ChainRow | null = null;
    let steps: ChainStep[] = [];
    let position = 0;
    for (; position < layers.length; position += 1) {
      const layer = layers[position];
      if (layer === undefined) break;
      const there = reader.chainById(chainId(parent?.chain_id ?? null, layer.diff_id));
      if (there === undefined) break;
      parent = there;
    }
    for (const layer of layers.slice(position)) {
      if (layer.implied === 1 && steps.length > 0) {
        parent = await writer.run('extendChain', { parent: parent?.id ?? null, steps });
        steps = [];
      }
      steps.push(await this.step(layer, parent));
    }
    if (steps.length === 0) return parent;
    return writer.run('extendChain', { parent: parent?.id ?? null, steps });
  }

  /** Which copy of a layer is to lie upon `parent`; made where what it inherits there is new. */
  async step(layer: LayerRow, parent: ChainRow | null): Promise<ChainStep> {
    const copy = layer.implied === 1 ? await this.variant(layer, parent) : this.layers.wholeCopy(layer);
    return { layerId: layer.id, storedLayerId: copy.id };
  }

  /** The driver's copy of a layer for its place upon `parent`; made from another, and verified, where there is none. */
  async copyBy(
    driver: DriverName,
    layer: LayerRow,
    place: { parent: ChainRow | null; leaseId: string } & CopyOptions,
  ): Promise<{ copy: StackedRow; made: boolean }> {
    const before = new Set(this.context.reader.storedLayers(layer.id).map(({ id, damaged }) => `${id} ${damaged}`));
    const copy =
      layer.implied === 1
        ? await this.variant(layer, place.parent, driver, place)
        : await this.layers.copyBy(driver, layer, place.leaseId, place);
    return { copy, made: !before.has(`${copy.id} ${copy.damaged}`) };
  }

  /**
   * The copy of a layer whose implied directories are as the chain below has them; made where there is none. By the
   * driver that keeps the layer already, or another.
   */
  private variant(
    layer: LayerRow,
    parent: ChainRow | null,
    by?: DriverName,
    options: CopyOptions = {},
  ): Promise<StackedRow> {
    return this.fixing.run(layer.diff_id, async () => {
      const { reader, writer, pool } = this.context;
      const whole = this.layers.wholeCopy(layer);
      const driver = by ?? whole.driver;
      const below = (parent === null ? [] : reader.stack(parent.stack_id)).map(storedLayer).toReversed();
      const { digest, directories } = await pool.run('bulk', 'layer.inheritance', { layer: storedLayer(whole), below });
      const copies = reader.storedLayers(layer.id).filter((row) => row.damaged === 0 && row.driver === driver);
      const same = copies.find((row) => row.inherited === digest);
      if (same !== undefined) return same;
      const open = copies.find((row) => row.inherited === 'open');
      if (open !== undefined) {
        const facts = await pool.run('bulk', 'layer.inherit', { layer: storedLayer(open), directories });
        await writer.run('fixInherited', { dir: open.dir, inherited: digest, ...facts });
        return { ...open, inherited: digest };
      }
      return this.layers.inStaging(async (dir) => {
        await this.layers.copy(storedLayer(whole), driver, dir, options);
        const copied = { ...storedLayer(whole), driver, dir };
        const facts = await pool.run('bulk', 'layer.inherit', { layer: copied, directories });
        const id = await writer.run('addVariant', { layerId: layer.id, driver, dir, inherited: digest, ...facts });
        return { ...whole, id, driver, dir, inherited: digest };
      });
    });
  }
}
